"""Lives of the sharder's workers that end early. A worker imports this module, and nothing of pytest."""

import os
from pathlib import Path

from cxr_data.convert import workers


def serve_disturbed(connection, slot, directory, *rest):
    """A worker's life, which a signal disturbs at a certain picture, while files `*.orderN` say so."""
    write_shard = workers.write_shard

    def write_disturbed(plan, directory, options, read, watcher, *rest):
        class Disturbing:
            done = watcher.done

            def begin(self, position):
                watcher.begin(position)
                for order in Path(directory).parent.glob(f"{Path(directory).name}.order*"):
                    name, number = order.read_text().split()
                    if position >= 0 and plan.entries[position].id == name:
                        order.unlink()
                        os.kill(os.getpid(), int(number))

        return write_shard(plan, directory, options, read, Disturbing(), *rest)

    workers.write_shard = write_disturbed
    workers.serve(connection, slot, directory, *rest)


def serve_between_images(connection, slot, directory, *rest):
    """A worker's life that ends once, with a shard and no picture in hand."""
    mark = Path(f"{directory}.ended")
    if not mark.exists():
        connection.recv()
        mark.touch()
        os._exit(3)
    workers.serve(connection, slot, directory, *rest)


def end_at_once(*_):
    """A worker's life that ends before it can take a shard."""
    os._exit(3)
