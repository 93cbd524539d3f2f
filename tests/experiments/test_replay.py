"""python -m experiments replay: class Gaussians from frozen models are those of the run that trained them."""

import json

import jax
import numpy as np
import pytest
from conftest import SMALLEST

from abd_jax.files import read_json
from abd_jax.run.load import load_snapshot
from experiments import __main__ as command
from experiments import replay


def test_the_runs_own_setting_gives_its_statistics_and_its_accuracy(learnt):
  path = learnt('class_gaussians', **SMALLEST)
  run = replay.read(path, '')
  found, kept = replay.carry(run.tasks, run.settings), load_snapshot(path)[2].model.statistics
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, kept)
  assert replay.accuracy(run, found) == read_json(path / 'results.json')['final_accuracy']
  carried = read_json(path / 'results.json')['accuracy_matrix'][-1]
  assert carried[0] != carried[1]  # the accuracy above is no constant


def test_a_grid_writes_each_combination_the_limit_and_the_trained_head(learnt, tmp_path, capsys):
  path = learnt('class_gaussians', **SMALLEST)
  words = ['replay', str(path), '--grid', 'gaussians.dreams=0,1', 'gaussians.own_share=0.0,0.1']
  command.run([*words, f'--output={tmp_path / "found.jsonl"}'])
  lines = [json.loads(line) for line in (tmp_path / 'found.jsonl').read_text().splitlines()]
  assert [line.get('setting') for line in lines[:4]] == [
    {'dreams': dreams, 'own_share': share} for dreams in (0, 1) for share in (0.0, 0.1)
  ]
  assert [line['what'] for line in lines[4:]] == ['limit', 'trained head'] and lines[0]['runs'] == [path.name]
  drifts = {line['drift'][0] for line in lines[:4]}
  assert len(drifts) == 2 and all(0 < one < 10 for one in drifts)  # where means are depends on dreams alone
  assert lines[3]['accuracy'] == pytest.approx([read_json(path / 'results.json')['final_accuracy']])
  assert 'trained head' in capsys.readouterr().out
