"""The tests are tested: a small mistake planted in a copy of the package makes the test meant for it fail.

Each line of MUTANTS: file of the package, what stands there once, what is put in its place, the test. By hand:
pytest -m slow tests/test_mutants.py
"""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import REPO

COPIED = ('abd_jax', 'configs', 'tests', 'pyproject.toml')

LOSSES, METHODS, SCHEDULE = 'tests/test_losses.py', 'tests/methods/test_methods.py', 'tests/run/test_schedule.py'
AUDIT, INTEGRITY, MEMORY = 'tests/analysis/test_audit.py', 'tests/run/test_integrity.py', 'tests/data/test_memory.py'
GRADIENTS = f'{LOSSES}::GradientTest'
PLANTED = f'{AUDIT}::test_a_planted_image_and_a_read_out_of_turn_are_found'
INVERSION = f'{LOSSES}::GoldenTest::test_inversion__without_jit'
OTHER_LOSS = "later=__import__('abd_jax.methods.deep_inversion', fromlist=['make']).make(config).later,"

MUTANTS = {
  # Losses.
  'diversity rewards sameness': (
    'losses.py', '1.0 + negative_entropy / log_k', '1.0 - negative_entropy / log_k', INVERSION
  ),
  'temperature multiplies': (
    'losses.py', 'cross_entropy(logits / temperature', 'cross_entropy(logits * temperature', INVERSION
  ),
  'divergence the other way': ('losses.py', 'jnp.log(var / stored_var)', 'jnp.log(stored_var / var)', INVERSION),
  'dreams in the local loss': (
    'losses.py', 'return mean_over(cross_entropy(logits, labels, new), is_real)',
    'return jnp.mean(cross_entropy(logits, labels, new))',
    f'{GRADIENTS}::test_local_cross_entropy_leaves_dreams_and_other_classes_alone',
  ),
  'balance upside down': (
    'losses.py', 'jnp.where(old[labels], r, 1.0 - r)', 'jnp.where(old[labels], 1.0 - r, r)',
    f'{LOSSES}::test_task_balance_gives_every_class_the_same_weight',
  ),
  'finetuning reaches the backbone': (
    'losses.py', 'jax.lax.stop_gradient(features) @ kernel', 'features @ kernel',
    f'{GRADIENTS}::test_finetuning_never_reaches_features',
  ),
  'distillation moves the teacher': (
    'losses.py', '@ jax.lax.stop_gradient(teacher_kernel)', '@ teacher_kernel',
    f'{GRADIENTS}::test_weighted_feature_distillation_never_reaches_the_teachers_head',
  ),
  "DeepInversion's loss in place of ABD's": (
    'methods/abd.py', 'later=(Phase(later_loss, **schedule, teachers=1, dreams=True, bn_passes=c.bn_passes),),',
    OTHER_LOSS, f'{METHODS}::test_golden_totals[abd]',
  ),
  'a generator that is never updated': (
    'steps/inversion.py', 'params=optim.apply_update(state.params, direction, lr),', 'params=state.params,',
    'tests/steps/test_steps.py::test_inversion_step_equals_the_restatement',
  ),
  # Masks.
  'classes not seen are within reach': (
    'losses.py', 'jnp.where(where[None], logits, NEVER)', 'logits',
    GRADIENTS,
  ),
  'heads of new classes are distilled': (
    'losses.py', 'jnp.sum(jnp.where(old[None], jnp.square(difference), 0.0), axis=-1)',
    'jnp.sum(jnp.square(difference), axis=-1)', f'{GRADIENTS}::test_weighted_feature_distillation_reads_old_heads_only',
  ),
  'no zeros for new classes': (
    'losses.py', 'mask_logits(student / temperature, seen)', 'mask_logits(student / temperature, old)',
    f'{GRADIENTS}::test_zero_padding_pushes_new_classes_down',
  ),
  'real rows are held': (
    'losses.py', 'old[None] & ~is_real[:, None]', 'old[None] & is_real[:, None]',
    f'{GRADIENTS}::test_hard_distillation_reads_old_classes_of_dreamed_rows_only',
  ),
  # Schedules and randomness.
  'dreaming after the last task': (
    'run/schedule.py', 'task + 1 < self.tasks.num_tasks', 'task < self.tasks.num_tasks',
    f'{SCHEDULE}::test_phases_by_name_and_the_models_they_freeze',
  ),
  'a rest of an epoch': (
    'steps/inputs.py', 'max(num_images // batch_size, 1)', '-(-num_images // batch_size)',
    f'{SCHEDULE}::test_total_steps_by_hand',
  ),
  'teachers of phases to come': (
    'run/schedule.py', "if t == task and name in ('', phase.name):", 'if t > task:',
    f'{SCHEDULE}::test_frozen_models_before_each_phase_the_newest_last',
  ),
  'rates drop late': (
    'steps/optim.py', '[:, None] >= np.asarray', '[:, None] > np.asarray',
    'tests/steps/test_steps.py::test_rate_drops_at_the_start_of_milestones',
  ),
  'rows and memory draw alike': (
    'steps/rng.py', '_ROWS, _MEMORY, _CROPS = 1, 2, 3', '_ROWS, _MEMORY, _CROPS = 1, 1, 3',
    'tests/steps/test_rng.py::test_rows_and_memory_are_no_epochs_shuffles',
  ),
  # Memory.
  'herding takes an image twice': (
    'data/memory.py', 'left[chosen[-1]] = False', 'pass',
    f'{MEMORY}::test_herding_does_not_choose_an_image_twice_although_its_features_repeat',
  ),
  'what is left over goes to the first classes': (
    'data/memory.py', '[::-1][:left]', '[:left]', f'{MEMORY}::test_quotas_by_hand'
  ),
  'images nearest to zero': (
    'data/memory.py', 'features - features.mean(0)', 'features',
    f'{MEMORY}::test_nearest_and_herding_equal_a_naive_restatement',
  ),
  # Metrics.
  'tasks of one weight': (
    'protocol/metrics.py', 'return [_over_tasks(row, counts) for row in matrix]\n',
    'return [_mean(row) for row in matrix]\n',
    'tests/protocol/test_metrics.py::test_seen_accuracy_weighs_each_task_by_its_test_images',
  ),
  'forgetting from the end': (
    'protocol/metrics.py', 'for i in range(j, last)', 'for i in range(j, last + 1)',
    'tests/protocol/test_metrics.py::test_forgetting_is_measured_from_the_best_accuracy_before_the_end',
  ),
  'an upper bound of another trial': (
    'protocol/upper_bound.py', "c.seed = 'base', 1, (classes,), seed", "c.seed = 'base', 1, (classes,), 0",
    'tests/protocol/test_upper_bound.py::test_whatever_changes_the_result_changes_the_place',
  ),
  # Resuming.
  'a new task begins in the middle': (
    'run/progress.py', "self.task + 1, '', 0", "self.task + 1, '', self.step",
    'tests/run/test_progress.py::test_a_run_step_by_step',
  ),
  'saves are numbered by kind': (
    'run/progress.py', '1 + max(self.saves.values(), default=0)', '1 + self.saves.get(kind, 0)',
    'tests/run/test_progress.py::test_what_is_saved_comes_back_and_saves_are_numbered_over_all_kinds',
  ),
  'another trial resumes the run': (
    'run/workdir.py', "  'max_seconds', 'checkpoint", "  'trial', 'max_seconds', 'checkpoint",
    'tests/run/test_upgrades.py::test_another_config_is_refused_in_one_line_and_nothing_is_touched',
  ),
  # Checksums.
  'a checksum of names and shapes': (
    'run/integrity.py', "digest.update(memoryview(array.reshape(-1).view(np.uint8)))", 'pass',
    f'{INTEGRITY}::test_a_checksum_of_arrays_sees_values_types_shapes_and_names',
  ),
  'a seal that nobody looks at': (
    'run/integrity.py', "record.get('checksum') == _checksum_of_record(record)", 'True',
    f'{INTEGRITY}::test_a_record_keeps_its_seal_through_json_and_no_other_content_has_it',
  ),
  "a teacher's files are not compared": (
    'run/manifest.py', 'if expected.get(name) != there.get(name):', 'if name not in there:',
    f'{AUDIT}::test_a_frozen_model_that_is_damaged_is_told_by_its_checksum',
  ),
  # The audit, and what is not believed.
  'arrays are known by name alone': (
    'analysis/audit.py', 'if array == expected.get(name):', 'if name in expected:', f'{PLANTED}[wider array]'
  ),
  'files are not looked at': (
    'analysis/audit_files.py', 'not _is_written(name, stores)', 'not name', f'{PLANTED}[hidden file]'
  ),
  'reads are not looked at': (
    'analysis/audit_reads.py', 'elif task < latest:', 'elif task < 0:', f'{PLANTED}[read of an earlier task]'
  ),
  'keys of no array pass': (
    'analysis/audit.py', 'for key in found.others]', 'for key in found.others[:0]]', f'{PLANTED}[key of the store]'
  ),
  'padding is not looked at': (
    'analysis/audit.py', "rows that have no label'] if behind else []", "rows that have no label'][:0]",
    f'{AUDIT}::test_an_image_in_the_memory_that_no_label_owns_up_to_is_found',
  ),
  'earlier memories are not looked at': (
    'analysis/audit.py', 'past=len(set().union(*stored_images) - now)', 'past=0',
    f'{AUDIT}::test_a_method_with_a_memory_says_how_many_images_it_keeps',
  ),
  'other data are gone on with': (
    'run/extend.py', "if config.data.fingerprint not in ('', data.fingerprint()):", 'if False:',
    'tests/run/test_found.py::test_a_run_does_not_go_on_with_another_version_of_its_data',
  ),
  'what fails is passed over': (
    'run/queue.py', 'outcome.failed[job.name] = str(error)', 'pass',
    'tests/run/test_queue.py::test_one_that_diverges_ends_neither_the_list_nor_unseen',
  ),
  'an archive may climb': (
    'data/archives.py', "or '..' in path.parts ", '',
    'tests/test_hostile.py::test_an_archive_that_leaves_its_folder_is_refused',
  ),
}  # fmt: skip


@pytest.fixture(scope='module')
def copy(tmp_path_factory):
  """A copy of the checkout with what tests need."""
  root = tmp_path_factory.mktemp('mutants')
  ignore = shutil.ignore_patterns('__pycache__')
  for name in COPIED:
    take = shutil.copytree if (REPO / name).is_dir() else shutil.copy
    take(REPO / name, root / name, **({'ignore': ignore} if (REPO / name).is_dir() else {}))
  return root


def passes(root, *tests):
  """(whether the tests pass there, what was printed). Without compiled bytecode: a mutant may be as long and as old."""
  env = os.environ | {'PYTHONDONTWRITEBYTECODE': '1', 'PYTHONPATH': os.pathsep.join(filter(None, (str(root), PATH)))}
  words = [sys.executable, '-m', 'pytest', '-q', '-x', '-p', 'no:cacheprovider', *tests]
  done = subprocess.run(words, cwd=root, env=env, capture_output=True, text=True)
  assert done.returncode in (0, 1), done.stdout + done.stderr  # 2 and above: no test was run
  return done.returncode == 0, done.stdout


PATH = os.environ.get('PYTHONPATH', '')


def test_each_stands_where_it_is_to_be_planted():
  assert len(MUTANTS) >= 24
  for file, old, _, test in MUTANTS.values():
    assert (REPO / 'abd_jax' / file).read_text().count(old) == 1, f'{old!r} in {file}'
    name = test.rpartition('::')[2].partition('[')[0].partition('__')[0] if '::' in test else ''
    assert name in (REPO / test.partition('::')[0]).read_text(), test


@pytest.mark.slow
def test_without_a_mutant_all_pass(copy):
  good, text = passes(copy, *sorted({test for *_, test in MUTANTS.values()}))
  assert good, text


@pytest.mark.slow
@pytest.mark.parametrize('name', MUTANTS)
def test_the_mutant_is_caught(copy, name):
  file, old, new, test = MUTANTS[name]
  path = copy / 'abd_jax' / file
  content = path.read_text()
  path.write_text(content.replace(old, new))
  try:
    good, text = passes(copy, test)
  finally:
    path.write_text(content)
  assert not good, f'{test} does not notice: {name}\n{text}'
