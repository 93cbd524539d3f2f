"""Every config field with values that mean nothing: refused in one line before the first step, or taken well."""

import re
from pathlib import Path

import pytest
from conftest import refused

import abd_jax.methods as methods
from abd_jax.commands import parse
from abd_jax.config import FIELDS, READERS, changed, check, check_read, read_fields
from abd_jax.errors import UserError

VALUES = ('-1', '0', 'nan', 'inf', '1e30', 'abc')
WORDS = [(name, text) for name in FIELDS if name != 'method' for text in VALUES]
MEMORY = ('lwf_coreset', 'rehearsal', 'e2e', 'bic')


def method_of(name):
  """One that reads the field."""
  return READERS.get(name.partition('.')[0], ('abd',))[0]


def configured(tiny_config, name, text):
  """The config with one field as the command line would set it. Raises UserError for a value that is refused there."""
  method = method_of(name)
  fields = {'memory__size': 60} if method in MEMORY else {}
  config = changed(tiny_config(method, **fields), read_fields({name: text}))
  check(config)
  return config


def taken(tiny_config):
  """Field -> the values that the command line takes; every refusal is one line that names the field."""
  values = {}
  for name, text in WORDS:
    try:
      configured(tiny_config, name, text)
      values.setdefault(name, []).append(text)
    except UserError as error:
      told = str(error)
      assert f'config.{name}' in told, (name, text, told)
      assert 'literal' not in told and 'could not convert' not in told, told
  return values


def test_meaningless_values_are_refused_in_words_before_jax_has_anything_to_do(tiny_config):
  values = taken(tiny_config)
  free_text = {name for name, field in FIELDS.items() if field.expected == 'a text'}
  for name, texts in values.items():
    if name in free_text:
      continue
    assert not {'nan', 'inf', '1e30', 'abc'} & set(texts), (name, texts)
    assert '-1' not in texts or name in ('seed', 'cluster.rank', 'data.mean'), name
  for name in ('student.lr', 'data.std', 'inversion.temperature', 'model.blocks', 'lwf.temperature', 'chunk_steps'):
    assert name not in values, name
  assert {'0'} <= set(values['trial']) and {'0', '-1'} <= set(values['seed'])


@pytest.mark.parametrize(
  ('words', 'told'),
  [
    (['student=3'], ['config.student is a group', 'config.student.']),
    (['student.milestones=abc'], ['config.student.milestones=abc', 'numbers']),
    (["task_sizes=('5','5')"], ['config.task_sizes', "'5'"]),
    (['task_sizes=(2,2)', 'task_sizes=(2,2)'], ['config.task_sizes is given twice']),
    (['data.mean=(0.5,nan)'], ['config.data.mean', 'numbers']),
    (['model.blocks=()'], ['config.model.blocks', 'as many']),
    (['student.lr=-1'], ['config.student.lr=-1', 'above 0']),
    (['data.flip=maybe'], ['config.data.flip=maybe', 'true or false']),
    (['lwf.weight=2'], ["config.lwf.weight is not read by method 'abd'", ':method=lwf']),
    (['data.fold=3'], ['config.data.fold=3', 'config.data.folds=0']),
    (['student.learning_rate=1'], ['config.student.learning_rate is not a field']),
  ],
)
def test_mistakes_in_fields_are_told_in_words(tiny_config, words, told):
  with refused(*told):
    fields = read_fields(parse('', [f'--config.{word}' for word in words], {}, fields=True).fields)
    check_read('abd', fields)
    check(changed(tiny_config(), fields))


def test_a_method_names_every_group_that_it_reads(tiny_config):
  """READS says who reads a group of another method; a result does not depend on the groups that are not named."""
  for name in methods.available():
    source = (Path(methods.__file__).parent / f'{name}.py').read_text()
    kin = ''.join(
      (Path(methods.__file__).parent / f'{one}.py').read_text()
      for found in re.findall(r'methods(?:\.| import )(\w+(?:, \w+)*)', source)
      for one in found.split(', ')
      if one != 'types'
    )
    for group in READERS:
      asks = re.search(rf'config\.{group}\b', source + kin) or (group == 'memory' and 'ExemplarPolicy(' in source + kin)
      assert bool(asks) == (name in READERS[group]), (name, group)
