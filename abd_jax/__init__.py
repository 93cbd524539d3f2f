"""abd_jax: data-free class-incremental learning (Always Be Dreaming) in JAX and Flax."""

__version__ = '0.1.0'
