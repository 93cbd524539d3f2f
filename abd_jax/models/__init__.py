"""The networks: the backbone that learns, the generator that dreams, and the batch norm they share."""

from abd_jax.models.resnet import ResNet

# config.model.variant -> its network
BACKBONES = {'abd': ResNet, 'rdfcil': ResNet, 'imagenet': ResNet, 'bottleneck': ResNet}
