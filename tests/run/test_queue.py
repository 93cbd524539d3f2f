"""abd_jax.run.queue: the one executor."""

import pytest

from abd_jax.errors import Diverged, InUse, Paused, UserError
from abd_jax.run import queue
from abd_jax.run.queue import Job, execute


@pytest.mark.parametrize(('limit', 'left'), [(0.0, [0, 0, 0, 0]), (25.0, [25, 15, 5, 0.01])])
def test_jobs_share_the_time_there_is(monkeypatch, limit, left):
  """Each takes ten seconds here; one that has no time left gets a moment, for zero would mean no limit."""
  now, given = [100.0], []
  monkeypatch.setattr(queue.time, 'monotonic', lambda: now[0])

  def run(max_seconds):
    given.append(max_seconds)
    now[0] += 10
    return {'n': len(given)}

  outcome = execute([Job(str(k), run) for k in range(4)], limit)
  assert given == left and outcome.complete() == [{'n': k} for k in (1, 2, 3, 4)]


def test_what_another_process_runs_is_left_for_the_end_and_results_keep_their_order():
  busy, order, lines = [True], [], []

  def run(name):
    def work(max_seconds):
      order.append(name)
      if name == 'a' and busy:
        busy.clear()
        raise InUse('a is in use')
      return {'name': name}

    return work

  outcome = execute([Job(name, run(name)) for name in 'abc'], tell=lines.append)
  assert order == ['a', 'b', 'c', 'a'] and list(outcome.results) == ['a', 'b', 'c']
  assert [result['name'] for result in outcome.complete()] == ['a', 'b', 'c'] and lines == [f'{n} ...' for n in order]


def test_what_stays_in_use_is_told():
  def in_use(max_seconds):
    raise InUse('in use')

  outcome = execute([Job('a', in_use), Job('b', lambda s: {})])
  assert list(outcome.results) == ['b'] and len(outcome.in_use) == 1
  with pytest.raises(InUse):
    outcome.complete()


def test_one_that_diverges_ends_neither_the_list_nor_unseen():
  def diverge(max_seconds):
    raise Diverged('loss is not finite')

  lines = []
  outcome = execute([Job('a', diverge), Job('b', lambda s: {}), Job('c', diverge)], tell=lines.append)
  assert list(outcome.results) == ['b'] and list(outcome.failed) == ['a', 'c']
  assert 'a has failed: loss is not finite' in lines
  outcome.check_ended()
  for ask in (outcome.complete, outcome.check_sound):
    with pytest.raises(UserError, match=r'2 runs .* a: loss is not finite'):
      ask()
  execute([Job('b', lambda s: {})]).check_sound()
  bounded = execute([Job('a', diverge), *(Job(name, lambda s: {}) for name in 'bcd')], max_jobs=2)
  assert list(bounded.results) == ['b', 'c']  # else one that always fails would be all that is ever begun

  def mistake(max_seconds):
    raise UserError('no such data')  # of all of them

  with pytest.raises(UserError, match='no such data'):
    execute([Job('a', mistake), Job('b', lambda s: pytest.fail('was run'))])


def test_a_pause_ends_the_list_and_a_number_bounds_it():
  def pause(max_seconds):
    raise Paused('time is up')

  ran = []
  outcome = execute([Job('a', lambda s: {}), Job('b', pause), Job('c', ran.append)])
  assert list(outcome.results) == ['a'] and not ran
  with pytest.raises(Paused):
    outcome.complete()
  assert len(execute([Job(str(k), lambda s: {}) for k in range(5)], max_jobs=2).results) == 2
