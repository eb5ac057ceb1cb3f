"""The methods, one file each, in rooms by what their rules read.

* `losses`: numbers a task, such as its loss; one backward pass a step.
* `gram`: the inner products of the task gradients.
* `preference`: which point of the Pareto front is wanted.

A rule that makes its update from the gradients themselves (an `UpdateRule`)
lives in a room `gradients`, a function around a whole training step in a room
`with_loss_fn`; the first of either opens its room.
"""
