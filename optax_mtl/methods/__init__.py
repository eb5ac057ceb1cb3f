"""The methods, one file each, in rooms by what their rules read.

* `losses`: numbers a task, such as its loss; one backward pass a step.
* `gram`: the inner products of the task gradients.
* `gradients`: the gradients themselves; an `UpdateRule`, without weights.
* `preference`: which point of the Pareto front is wanted.

A function around a whole training step would live in a room `with_loss_fn`; the
first of them opens it.
"""
