"""What a run keeps, and images planted in it."""

import json
import re
import shutil
import subprocess
import zlib

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import xxhash
from conftest import REPO, snapshot
from PIL import Image

from abd_jax.analysis.audit import audit
from abd_jax.analysis.audit_reads import read_out_of_turn
from abd_jax.analysis.audit_texts import too_much
from abd_jax.commands import audit as command
from abd_jax.config import default, restored
from abd_jax.errors import UserError
from abd_jax.files import read_json, sealed
from abd_jax.models.generator import Generator
from abd_jax.protocol.tasks import Tasks
from abd_jax.run.checkpoint import checksums
from abd_jax.run.stored import read_store
from abd_jax.run.workdir import Workdir, at_rest

IMAGE = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)


@pytest.fixture
def run(small_run):
  """run(method) -> a copy of a complete run of two tasks."""
  return small_run


def test_a_data_free_run_keeps_a_student_and_a_generator_and_nothing_is_found(run):
  folder = run()
  before = snapshot(folder)
  found = audit(folder)
  assert found.findings == [] and found.notes == []
  assert (found.method, found.capacity, found.images, found.distinct) == ('abd', 0, 0, 0)
  assert found.kept['params.head.kernel'] == ((4, 10), 'float32') and found.kept['params.head.kernel'].nbytes == 160
  assert {name.partition('.')[0] for name in found.kept} == {'params', 'batch_stats', 'generator'}
  assert found.group('generator.')[0] > found.group('params.')[0] > 0
  assert snapshot(folder) == before


def test_bytes_are_those_of_du(run):
  folder = run()
  (folder / 'twice').hardlink_to(folder / 'config.json')
  said = subprocess.run(['du', '-sb', folder], capture_output=True, text=True, check=True).stdout
  assert sum(audit(folder).bytes.values()) == int(said.split()[0])


def test_a_method_with_a_memory_says_how_many_images_it_keeps(run, capsys):
  folder = run('e2e')
  found = audit(folder)
  assert found.findings == [] and found.capacity == found.images == found.distinct == 12
  assert found.kept['memory.images'] == ((12, 8, 8, 1), 'uint8')
  assert command.run([str(folder)]) == 0
  assert 'e2e keeps up to 12 real images: 12 now, 12 of them different' in (text := capsys.readouterr().out)
  # What it had room for while it knew fewer classes lies beside the model of that time.
  now, then = ({one.tobytes() for one in memory_of(folder, name)} for name in ('1', '0'))
  assert found.past == len(then - now) > 0 and f'older frozen models keep {found.past} others' in text


def memory_of(folder, name):
  with ocp.StandardCheckpointer() as checkpointer:
    memory = checkpointer.restore(folder / 'teachers' / name)['memory']
  return np.asarray(memory['images'])[np.asarray(memory['labels']) >= 0]


def test_what_it_prints(run, capsys):
  folder = run()
  assert command.run([str(folder)]) == 0
  text = capsys.readouterr().out
  numbers, size = audit(folder).group('generator.')
  argument = f'128,000 numbers (128.0 kB): {128000 / numbers:,.1f} times the numbers of the generator, '
  assert argument + f'{128000 / size:,.1f} times its bytes' in text and 'abd keeps no image' in text
  assert command.run([str(folder), '--format=arrays']) == 0
  assert re.search(r'generator\.params\.project\.kernel +\| float32\[4, 64\] +\| 1,024 ', capsys.readouterr().out)
  (folder / 'photo.png').write_bytes(b'x')
  assert command.run([str(folder), '--format=json']) == 1
  found = json.loads(capsys.readouterr().out)
  assert found['findings'] == ['photo.png (1 bytes) is nothing of a run: it can hold images']
  assert {'name': 'params.head.kernel', 'shape': [4, 10], 'dtype': 'float32', 'bytes': 160} in found['kept']


def newest(folder, kind='student'):
  return max((folder / 'checkpoints' / kind).iterdir(), key=lambda path: int(path.name)) / 'state'


def rewrite(store, change):
  """Writes an array store anew as `change` leaves its tree."""
  with ocp.StandardCheckpointer() as checkpointer:
    tree = checkpointer.restore(store)
    change(tree)
    shutil.rmtree(store)
    checkpointer.save(store, tree)


def seal_again(folder, name):
  """A manifest that agrees with what now stands in the folder, as one who hides something would write it."""
  file = folder / 'teachers' / f'{name}.json'
  file.write_text(json.dumps(sealed(json.loads(file.read_text()) | {'files': checksums(folder / 'teachers' / name)})))


def in_a_checkpoint(folder):
  rewrite(newest(folder), lambda tree: tree['params'].update(past=np.stack([IMAGE, IMAGE])))


def in_a_teacher(folder):
  rewrite(folder / 'teachers' / '1', lambda tree: tree.update(memory={'images': IMAGE[None]}))
  seal_again(folder, '1')


def as_a_wider_kernel(folder):
  def widen(tree):
    head = tree['model']['params']['head']
    head['kernel'] = np.concatenate([head['kernel'], IMAGE.reshape(-1, 1)[:4].astype(np.float32)], 1)

  rewrite(folder / 'teachers' / '0', widen)
  seal_again(folder, '0')


def in_the_store_alone(folder):
  import tensorstore

  base = {'driver': 'file', 'path': f'{newest(folder)}/'}
  store = tensorstore.KvStore.open({'driver': 'ocdbt', 'base': base}).result()
  store['past'] = IMAGE.tobytes()


def as_a_file_of_the_store(folder):
  (newest(folder, 'generator') / 'd' / ('0' * 32)).write_bytes(IMAGE.tobytes())


def in_tensorboard(folder):
  from tensorboardX import SummaryWriter

  with SummaryWriter(str(folder / 'tensorboard')) as writer:
    writer.add_image('dreams', IMAGE, 0, dataformats='HWC')
    writer.add_image('past', IMAGE, 0, dataformats='HWC')


def append(name, content):
  def plant(folder):
    with (folder / name).open('ab') as file:
      file.write(content)

  return plant


def picture(name):
  def plant(folder):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(IMAGE[..., 0]).save(folder / name, format='png')

  return plant


def edited(name, **content):
  return lambda folder: (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | content))


def read_line(**record):
  read = {'for': 'training', 'split': 'train', 'classes': [7, 8], 'images': 294} | record
  return append('reads.jsonl', (json.dumps(read) + '\n').encode())


def in_metadata(name, content):
  """Plants `content` in a JSON file of the newest save of the student."""

  def plant(folder):
    file = newest(folder).parent / name
    file.write_text(json.dumps(json.loads(file.read_text()) | content))

  return plant


def in_metadata_of_a_teacher(folder):
  edited('teachers/1/_METADATA', past={'A' * 4096: 1})(folder)
  seal_again(folder, '1')


def as_a_key_that_comes_twice(folder):
  file = newest(folder) / '_METADATA'
  file.write_text(file.read_text().replace('{', '{"use_ocdbt": "%s", ' % ('A' * 4096), 1))


def in_a_chunk(kind, body):
  """Puts a chunk before the end of a picture."""

  def plant(folder):
    file = folder / 'dreams' / 'task_1.png'
    content, chunk = file.read_bytes(), kind + body
    whole = len(body).to_bytes(4, 'big') + chunk + zlib.crc32(chunk).to_bytes(4, 'big')
    file.write_bytes(content[:-12] + whole + content[-12:])

  return plant


def in_an_event(folder):
  from tensorboardX import SummaryWriter

  with SummaryWriter(str(folder / 'tensorboard')) as writer:
    writer.add_scalar('past' * 64, 0.0, 0)


def in_an_event_of_another_kind(folder):
  from tensorboardX.proto import event_pb2
  from tensorboardX.record_writer import RecordWriter

  (folder / 'tensorboard').mkdir(exist_ok=True)
  writer = RecordWriter(str(folder / 'tensorboard' / 'events.out.tfevents.1.past'))
  writer.write(event_pb2.Event(graph_def=IMAGE.tobytes()).SerializeToString())
  writer.close()


def confusion(name, *rows):
  return lambda folder: (folder / 'confusion' / name).write_text(''.join(f'{row}\n' for row in rows))


PLANTED = {
  'file': (picture('photo.png'), 'photo.png (75 bytes) is nothing of a run'),
  'hidden file': (picture('teachers/.0'), 'teachers/.0 (75 bytes) is nothing'),
  'file beside arrays': (picture('teachers/0/photo'), 'teachers/0/photo (75 bytes) is nothing'),
  'save that was cut off': (picture('checkpoints/student/9.orbax-checkpoint-tmp/photo'), 'is a save that was cut off'),
  'frozen model cut off': (picture('teachers/1.new/photo'), '1.new is a save that was cut off, not looked into'),
  'folder beside frozen models': (picture('teachers/old/photo'), 'teachers/old/photo (75 bytes) is nothing of a run'),
  'manifest of no model': (picture('teachers/9.json'), 'teachers/9.json (75 bytes) is nothing of a run'),
  'file beside no arrays': (picture('checkpoints/student/99/_METADATA'), 'student/99/_METADATA (75 bytes) is nothing'),
  'store of no kind': (picture('checkpoints/past/9/_METADATA'), 'checkpoints/past/9/_METADATA (75 bytes) is nothing'),
  'link': (lambda folder: (folder / 'a').symlink_to('/tmp'), 'a is a link to /tmp'),
  'array in a checkpoint': (in_a_checkpoint, 'params.past is uint8[2, 8, 8, 1], and none of this run: it can hold 2'),
  'array in a teacher': (in_a_teacher, 'teachers/1: array memory.images is uint8[1, 8, 8, 1], and none of this run'),
  'wider array': (as_a_wider_kernel, 'array model.params.head.kernel is float32[4, 11], not float32[4, 10]'),
  'key of the store': (in_the_store_alone, 'past belongs to no array'),
  'file of the store': (as_a_file_of_the_store, f'{"0" * 32} (64 bytes) is nothing of a run'),
  'pictures of TensorBoard': (in_tensorboard, "holds 1 pictures too many named 'past'"),
  'behind a picture': (append('dreams/task_1.png', IMAGE.tobytes()), 'task_1.png has 64 bytes after its picture'),
  'picture of a task that dreams of nothing': (picture('dreams/task_2.png'), 'task_2.png: nothing was dreamed'),
  'lock': (append('.lock', IMAGE.tobytes()), '.lock holds 64 bytes'),
  'log': (append('metrics.jsonl', b'{"x": [%s]}\n' % b','.join([b'1'] * 64)), 'holds a list of 64, longer than the'),
  'results': (edited('results.json', note='A' * 4096), 'results.json holds a text of 4096 letters'),
  'config': (edited('config.json', past={'of': [IMAGE.ravel().tolist()]}), 'config.json holds a list of 64'),
  'key of a log': (append('reads.jsonl', b'{"%s": 1}\n' % (b'A' * 4096)), 'holds a text of 4096 letters'),
  'half a line': (append('phases.jsonl', b'A' * 4096), 'phases.jsonl holds 4096 bytes beside its values'),
  'many short texts': (edited('config.json', past={f'{k:064}': 1 for k in range(999)}), 'letters in all, more than'),
  'many numbers': (edited('config.json', past={f'{k}': 1 for k in range(4096)}), 'keys and values, more than a run'),
  'manifest': (append('teachers/old.json', b'{"past": "%s"}' % (b'A' * 4096)), 'old.json holds a text of 4096'),
  'CSV of metrics': (append('metrics.csv', b'1,evaluating,,%s,1\n' % (b'A' * 4096)), 'is not of metrics.jsonl'),
  'confusion of no task': (confusion('task_9.csv', 'A' * 4096), 'confusion/task_9.csv: there is no such task'),
  'confusion of names': (confusion('task_1.csv', 'A' * 4096), 'task_1.csv (4097 bytes) is no table of the counts'),
  'confusion with more': (append('confusion/task_2.csv', b'A' * 4096), 'is no table of the counts of the classes'),
  'text of orbax': (in_metadata('state/_METADATA', {'custom_metadata': 'A' * 4096}), 'letters that name no array'),
  'key of orbax': (in_metadata('_CHECKPOINT_METADATA', {'A' * 4096: 1}), 'letters that name no array'),
  'way that arrays lie': (in_metadata('state/_sharding', {'past': '{"A": "%s"}' % ('A' * 4096)}), 'name no array'),
  'many numbers of orbax': (in_metadata('state/array_metadatas/process_0', {'past': [1] * 4096}), 'more than its'),
  'long numbers': (in_metadata('state/_METADATA', {'past': [10**40 + k for k in range(99)]}), 'that name no array'),
  'progress': (in_metadata('progress/metadata', {'past': [0.5] * 4096}), 'more than its arrays need'),
  'key of orbax in a teacher': (in_metadata_of_a_teacher, 'teachers/1/_METADATA holds'),
  'key that comes twice': (as_a_key_that_comes_twice, 'bytes beside its values'),
  'word of success': (append('teachers/1/commit_success.txt', b'A' * 4096), 'letters of something else'),
  'text of a picture': (in_a_chunk(b'tEXt', b'A\0' + IMAGE.tobytes()), 'task_1.png has 66 bytes in parts beside its'),
  'part of a picture': (in_a_chunk(b'paSt', IMAGE.tobytes()), 'task_1.png has 64 bytes in parts beside its picture'),
  'behind the pixels': (in_a_chunk(b'IDAT', IMAGE.tobytes()), 'has more or less than its '),
  'event of TensorBoard': (in_an_event, 'bytes in an event beside a picture'),
  'event of another kind': (in_an_event_of_another_kind, 'bytes in an event of kind graph_def'),
  'read of an earlier task': (read_line(), 'images of task 1 were read after task 2 had begun'),
  'read of all': (read_line(classes=list(range(10))), "images of the train split that are not one task's"),
  'training on the test split': (read_line(split='test'), "images of the test split that are not one task's"),
  'testing on the training split': (read_line(**{'for': 'testing'}), 'training images were read for testing'),
  'no word of what was read': (lambda folder: (folder / 'reads.jsonl').unlink(), 'reads.jsonl is missing'),
}  # fmt: skip


@pytest.mark.parametrize('where', PLANTED)
def test_a_planted_image_and_a_read_out_of_turn_are_found(run, where):
  folder = run()
  plant, what = PLANTED[where]
  plant(folder)
  assert any(what in line for line in audit(folder).findings), audit(folder).findings


def test_a_run_that_extends_another_may_number_its_own_classes_from_zero(tmp_path):
  tasks, config = Tasks((0, 1, 3, 2), (2, 1, 1)), default()
  records = [{'for': 'training', 'split': 'train', 'classes': [one], 'images': 9} for one in (1, 0)]
  (tmp_path / 'reads.jsonl').write_text('\n'.join(map(json.dumps, records)) + '\n')
  assert len(read_out_of_turn(tmp_path, tasks, config)) == 2
  config.extends = 'another'
  assert read_out_of_turn(tmp_path, tasks, config) == []
  (tmp_path / 'reads.jsonl').write_text('\n'.join(map(json.dumps, records[::-1])) + '\n')
  assert len(read_out_of_turn(tmp_path, tasks, config)) == 1


def test_an_image_in_the_memory_that_no_label_owns_up_to_is_found(run):
  folder = run('e2e')

  def hide(tree):
    tree['memory']['labels'] = np.array([*np.asarray(tree['memory']['labels'])[:-1], -1], np.int32)

  rewrite(folder / 'teachers' / '1', hide)
  seal_again(folder, '1')
  found = audit(folder)
  assert found.findings == ['the memory holds pixels in 1 rows that have no label'] and found.images == 11


def test_real_images_that_the_report_put_there_are_found(run):
  folder = run('abd')
  (folder / 'diagnosis').mkdir()
  pictures = {'real_0': np.stack([IMAGE] * 5), 'dreamed_0_0': IMAGE[None], 'nearest_real_0': IMAGE[None]}
  pictures['past'] = IMAGE[None]  # which it does not write
  np.savez(folder / 'diagnosis' / 'images.npz', **pictures)
  (folder / 'report.html').write_text('<img src="data:image/png;base64,">')
  assert audit(folder).findings == [
    'diagnosis/images.npz holds 7 real images, which `report` read from the data set: delete diagnosis/',
    'report.html shows real images, which `report` read from the data set: delete it, or make it --no-diagnosis',
  ]
  shutil.rmtree(folder / 'diagnosis')
  (folder / 'report.html').write_text('<html>')  # as without a diagnosis
  assert audit(folder).findings == []


def test_few_classes_of_colour_photographs_and_an_order_of_names_are_nothing_odd():
  tasks = Tasks((1, 0), (1, 1))
  assert too_much({'mean': [0.1] * 3, 'image_shape': [224, 224, 3], 'widths': [64] * 5}, tasks) == ''
  assert too_much({'list': [0.5] * 17}, tasks) == 'a list of 17, longer than the classes'
  many = Tasks(tuple(range(1000)), (1000,))
  assert too_much({'class_order': ','.join(map(str, range(1000)))}, many) == ''
  assert too_much({'class_order': '9' * 110_000}, many) == 'a text of 110000 letters'


def test_the_photographs_and_their_copies_are_named(run):
  folder = run()
  config = json.loads((folder / 'config.json').read_text())
  config['data'] |= {'name': 'image_folder', 'dir': '/data/photos/', 'prepared': ''}
  (folder / 'config.json').write_text(json.dumps(config))
  assert audit(folder).notes == [
    '/data/photos/ has the photographs themselves, and /data/photos.prepared copies of them, also of earlier ones'
  ]


def test_a_log_that_is_cut_takes_its_csv_along(run):
  """It is written anew with the next record; a run may be stopped again before that."""
  folder = run()
  config = json.loads((folder / 'config.json').read_text())
  log = folder / 'metrics.jsonl'
  content = log.read_bytes()
  half = content[: content.index(b'\n', len(content) // 2) + 1]
  for kept in (content, half):
    with Workdir(str(folder), config) as workdir:
      workdir.cut_log(len(kept), xxhash.xxh3_128(kept).hexdigest())
    assert (folder / 'metrics.csv').exists() == (kept == content)
  assert not [line for line in audit(folder).findings if 'metrics.csv' in line]


def test_traces_are_told_as_not_looked_into(run):
  folder = run()
  trace = folder / 'profile' / 'task_1_learning' / 'plugins' / 'profile' / '2026_01_01_00_00_00' / 'host.xplane.pb'
  trace.parent.mkdir(parents=True)
  trace.write_bytes(IMAGE.tobytes())
  found = audit(folder)
  assert found.findings == []
  assert found.notes == ['profile: traces of JAX, not looked into; delete it, no run needs it']


def test_a_csv_that_is_behind_its_log_is_one_of_a_run_that_was_stopped(run):
  folder = run()
  content = (folder / 'metrics.csv').read_bytes()
  for size in (0, len(content) // 2, len(content)):
    (folder / 'metrics.csv').write_bytes(content[:size])
    assert audit(folder).findings == [], size
  (folder / 'metrics.csv').unlink()
  assert audit(folder).findings == []


def test_orbax_may_name_many_devices(run):
  folder = run()
  file = newest(folder) / '_sharding'
  lies = json.dumps({'sharding_type': 'NamedSharding', 'device_mesh': {'mesh': [{'id': k} for k in range(256)]}})
  file.write_text(json.dumps(dict.fromkeys(json.loads(file.read_text()), lies), separators=(',', ':')))
  assert audit(folder).findings == []


def test_a_frozen_model_that_is_damaged_is_a_finding(run):
  folder = run()
  index = folder / 'teachers' / '0' / 'manifest.ocdbt'
  index.write_bytes(index.read_bytes()[:40])
  assert [line for line in audit(folder).findings if 'teachers/0 cannot be read' in line]
  with pytest.raises(UserError, match='cannot be read'):
    read_store(folder / 'teachers' / '0')


def test_a_frozen_model_that_is_damaged_is_told_by_its_checksum(run):
  folder = run()
  file = folder / 'teachers' / '0' / '_sharding'  # which no store of arrays needs
  file.write_bytes(file.read_bytes().replace(b'device', b'divice', 1))
  assert [line for line in audit(folder).findings if '_sharding is damaged' in line]


@pytest.mark.parametrize(
  ('words', 'match'),
  [
    ([], 'give the workdir of one run'),
    (['a', 'b'], 'give the workdir of one run'),
    (['a', '--format=xml'], '--format=xml is not one of table, arrays, json'),
    (['a'], 'holds no run: it has no config.json'),
  ],
)
def test_mistakes_are_told(words, match):
  with pytest.raises(UserError, match=match):
    command.run(words)


def test_a_run_that_is_going_on_is_left_alone(run):
  """What it is just saving is no old image, and is there no longer when it is looked at."""
  folder = run()
  config = restored(read_json(folder / 'config.json'))
  with Workdir(str(folder), config.to_dict()), pytest.raises(UserError, match=f'{folder} is in use by another process'):
    command.run([str(folder)])
  with at_rest(folder), pytest.raises(UserError, match='is in use by another process'):
    Workdir(str(folder), config.to_dict())
  assert command.run([str(folder)]) == 0


def test_a_run_without_a_model_and_an_upper_bound_keep_nothing(run):
  folder = run()
  shutil.rmtree(folder / 'teachers')
  with pytest.raises(UserError, match='keeps nothing yet'):
    audit(folder)
  edited('config.json', method='oracle')(folder)
  with pytest.raises(UserError, match='holds an upper bound'):
    audit(folder)


@pytest.mark.parametrize(
  ('images', 'side', 'start', 'widths', 'said'),
  [
    ('CIFAR', 32, (8, 8, 128), (128, 64), '-'),
    ('Tiny-ImageNet', 64, (8, 8, 128), (128, 128, 64), '10 times'),
    ('ImageNet', 224, (7, 7, 64), (64,) * 5, '100 times'),
  ],
)
def test_the_documents_arithmetic_of_memory_is_that_of_the_networks(images, side, start, widths, said):
  generator = Generator(1000, start, widths, 3)
  made = jax.eval_shape(lambda: generator.init(jax.random.key(0), np.zeros((2, 1000), np.float32), train=False))
  numbers, pixels = sum(leaf.size for leaf in jax.tree.leaves(made['params'])), 2000 * side * side * 3
  row = (
    f'| {images}, {side}x{side}x3 | {pixels:,} | {numbers:,} | {said} | {pixels / numbers:.1f} | {4 * numbers:,} '
    f'| {pixels / numbers / 4:.1f} |'
  )
  assert row in (REPO / 'docs' / 'audit.md').read_text(), row
