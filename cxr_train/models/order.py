"""The order of a network's layers, which does not change when gates are added to it."""

import keras

from cxr_train.models.added import is_added


def own_order(model: keras.Model) -> list[keras.Operation]:
    """Return the backbone's and the head's own operations in the order that they have without gates.

    Without gates this is the order of `model.summary()`: by the number of operations to the output, and
    then as a walk from the output backwards meets them. A gate makes the paths through it longer, and so
    moves layers in `model.summary()` before others that are computed beside them. Here it has no length.

    Args:
      model: no layer called twice.
    """
    producers = {
        id(tensor): operation
        for operation in model.operations
        for tensor in keras.tree.flatten(operation.output)
    }
    parents = {
        operation: []
        if isinstance(operation, keras.layers.InputLayer)
        else [producers[id(tensor)] for tensor in keras.tree.flatten(operation.input)]
        for operation in model.operations
    }
    left: dict[keras.Operation, int] = dict.fromkeys(model.operations, 0)
    for operation in reversed(model.operations):
        for parent in parents[operation]:
            left[parent] = max(left[parent], left[operation] + (not is_added(operation.name)))
    met: dict[keras.Operation, int] = {}
    to_visit = [producers[id(tensor)] for tensor in reversed(model.outputs)]
    while to_visit:
        operation = to_visit.pop()
        if operation not in met:
            met[operation] = len(met)
            to_visit += reversed(parents[operation])
    own = (operation for operation in model.operations if not is_added(operation.name))
    return sorted(own, key=lambda operation: (-left[operation], met[operation]))
