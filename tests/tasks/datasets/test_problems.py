import collections

import seqio

from tasks.datasets import problems


def test_people_are_right_one_time_in_four_and_else_off_by_one_in_a_digit_or_both():
  errors = collections.Counter()
  for problem, answer in problems.sums():
    given = problems.careless_answers(problem, answer)
    assert given == problems.careless_answers(problem, answer) and len(given) == 16
    errors.update(int(x) - int(answer) for x in given)
  assert set(errors) == {0, 1, -1, 10, -10, 11, 9, -9, -11}
  total = 8100 * 16
  share = lambda *found: sum(errors[e] for e in found) / total
  assert abs(share(0) - 0.25) < 0.005   # a standard error is 0.0012
  assert abs(share(1, -1) - 0.25) < 0.005 and abs(share(10, -10) - 0.25) < 0.005


def test_the_tasks_ask_the_same_problems_of_a_split():
  tasks = [seqio.TaskRegistry.get(name) for name in ('two_digit_addition', 'careless_addition')]
  right, careless = (
      [(one['inputs'].decode(), one['targets'].decode()) for one in
       task.source.get_dataset('validation', shuffle=False).as_numpy_iterator()] for task in tasks)
  for split in ('train', 'validation'):
    sizes = [task.source.num_input_examples(split) for task in tasks]
    assert sizes[1] == 16 * sizes[0]
  assert [problem for problem, _ in careless[::16]] == [problem for problem, _ in right]
  assert len(careless) == sizes[1] and all(int(y) == eval(x[:-1]) for x, y in right)
