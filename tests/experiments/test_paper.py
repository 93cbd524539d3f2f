"""experiments.paper and .plan: the tables, and the runs behind them."""

import json

import pytest

from abd_jax import methods
from abd_jax.config import load_config
from abd_jax.files import read_json
from experiments.paper import SETTINGS, SPLITS, TABLE_F, TABLES, under_other_weight
from experiments.plan import plan, rows_on
from experiments.store import RESULTS


def where_it_runs(table):
  return list(dict.fromkeys((table.config, *SPLITS)))


def test_every_row_names_a_method_known_fields_and_a_row_to_compare_with():
  for name, table in TABLES.items():
    for config in where_it_runs(table):
      rows, tasks = rows_on(table, config), plan(table, config, 1)[0].tasks
      names = [row.name for row in rows]
      assert len(set(names)) == len(names)
      for row in rows:
        assert row.method in methods.available(), (name, row)
        assert all(len(numbers) <= 4 for numbers in row.paper)
        assert row.reference in names
        load_config(f'{config}:tasks={tasks},method={row.method}', **dict(row.overrides))


def test_runs_have_names_of_their_own_that_fit_a_file_system():
  runs = [one for table in TABLES.values() for one in plan(table, table.config, 1)]
  names = {(one.file, one.row.method, one.row.overrides, one.tasks): one.name for one in runs}
  assert len(set(names.values())) == len(names) and max(map(len, names.values())) < 200


def test_a_table_may_give_fields_to_all_its_rows_and_leave_trials_out():
  table = TABLES['small_bfloat16']
  assert all(row.overrides[-1] == ('precision', 'bfloat16') for row in table.rows)
  assert {one.trial for one in plan(table, table.config, table.trials)} == {0, 1, 2, 6, 7, 8}


def test_paper_numbers_are_those_of_its_text():
  ours = next(row for row in TABLES['1'].rows if row.method == 'abd')
  assert ours.paper == ((43.9, 0.9, 78.6, 1.1), (33.7, 1.2, 69.6, 1.6), (20.0, 1.4, 52.5, 2.5))
  assert [row.paper[0][0] for row in TABLES['3'].rows[1:]] == [33.7, 23.4, 16.5, 15.9, 12.7, 9.8]
  assert [row.paper for row in TABLES['whole'].rows if row.paper] == [((8.8, 0.1, 32.1, 1.1),), ours.paper[1:2]]


def test_rows_with_the_papers_numbers_run_as_the_released_code_and_corrected_ones_follow():
  rows = TABLES['B'].rows
  released = {row.method: dict(row.overrides) for row in rows if row.paper and row.overrides}
  assert list(released) == ['rehearsal', 'lwf_coreset', 'e2e', 'bic'] and released['bic'] == {'bic.evaluate': 'raw'}
  corrected = [row for row in rows if row.name.endswith(', corrected')]
  assert [row.method for row in corrected] == list(released)
  on_digits = [row for row in TABLES['methods'].rows if row.replay == 'coreset']
  assert not any(row.paper or row.overrides for row in corrected + on_digits)


@pytest.mark.parametrize(
  ('config', 'own', 'other', 'called'),
  [('digits', 'one', 'balanced', 'released weight'), ('cifar100', 'balanced', 'one', "paper's weight")],
)
def test_ablations_run_under_both_weights_of_equation_11(config, own, other, called):
  table = TABLES['3']
  assert load_config(config).abd.local_weight == own
  rows = rows_on(table, config)[len(table.rows) :]
  assert [row.name for row in rows] == [f'{row.name}, {called}' for row in table.rows[1:]]
  assert rows == under_other_weight(table.rows, own)
  assert {row.reference for row in rows} == {f'Full method, {called}'}
  assert rows[0].overrides == (('abd.local_weight', other),)
  assert rows[2].overrides == (('abd.local_classes', 'seen'), ('abd.local_weight', other))
  # Without balancing there is no weight: one run for both.
  assert rows[1].overrides == table.rows[2].overrides == (('abd.balance', 'none'),)


def test_settings_of_digits_are_those_that_were_compared_and_can_run():
  stored = read_json(RESULTS / 'digits_settings.json')
  assert {one['name']: one['point'] for one in stored['points']} == json.loads(json.dumps(SETTINGS['digits'].fields))
  for settings in SETTINGS.values():
    for fields in settings.fields.values():
      method = fields.get('method', 'abd')
      others = {name: value for name, value in fields.items() if name != 'method'}
      load_config(f'{settings.config}:method={method}', **others)


def test_table_f_contains_the_values_in_use():
  config = load_config('cifar100')
  for field, values in TABLE_F.items():
    group, name = field.split('.')
    assert config[group][name] in values, field
