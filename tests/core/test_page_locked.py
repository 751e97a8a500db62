"""Page-locked memory: of a driver that this process uses, and of nothing else."""

import concurrent.futures
import ctypes
import gc
import os
import re
import sys

import numpy as np
import pytest

from cxr_data.core import page_locked
from cxr_data.core.page_locked import Driver


class Library:
    """`libcuda` of two GPUs: the process computes on those that are `active`."""

    def __init__(self, active: set[int], *, refuses: bool = False) -> None:
        self.active = active
        self.refuses = refuses
        self.locked: dict[int, int] = {}
        self.pushed: list[int] = []
        self.unlocked: list[int] = []

    def __getattr__(self, name):
        """Find `cuMemHostRegister_v2` as `mem_host_register`."""
        own = re.sub("(?<!^)([A-Z])", r"_\1", name.removeprefix("cu").removesuffix("_v2")).lower()
        if own == name:
            raise AttributeError(name)
        return getattr(self, own)

    def device_get_count(self, count):
        count._obj.value = 2
        return 0

    def device_get(self, device, number):
        device._obj.value = number
        return 0

    def device_primary_ctx_get_state(self, device, flags, active):
        active._obj.value = device.value in self.active
        return 0

    def device_primary_ctx_retain(self, context, device):
        context._obj.value = 100 + device.value
        return 0

    def ctx_push_current(self, context):
        self.pushed.append(context.value)
        return 0

    def ctx_pop_current(self, context):
        self.pushed.pop()
        return 0

    def mem_host_register(self, address, size, flags):
        assert (self.pushed, flags) == ([101], 1)
        if self.refuses:
            return 2
        self.locked[address.value] = size.value
        return 0

    def mem_host_unregister(self, address):
        self.unlocked.append(address.value)
        assert self.pushed == [101]
        ctypes.memset(address.value, 7, 1)  # it is still there
        del self.locked[address.value]
        return 0


@pytest.fixture(autouse=True, scope="module")
def only_new_objects():
    """Leave what is there out of `gc.collect`, which takes half a second with TensorFlow."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("size", [1, 100, 3 << 20])
def test_memory_is_locked_until_nobody_holds_it(size):
    library = Library({1})
    memory = page_locked.empty(size, Driver(library))
    assert memory.shape == (size,)
    assert library.locked == {memory.ctypes.data: size}
    assert memory.ctypes.data % 4096 == 0
    memory[:] = 3
    view = np.frombuffer(memory.data, np.uint8)[-1:]
    del memory
    gc.collect()
    assert library.locked
    assert view == 3
    del view
    gc.collect()
    assert library.locked == {}
    assert library.pushed == []


def test_a_process_that_uses_no_gpu_yet_has_ordinary_memory():
    library = Library(set())
    driver = Driver(library)
    assert page_locked.empty(10, driver).sum() == 0
    assert library.locked == {}
    library.active = {1}
    memory = page_locked.empty(10, driver)
    assert memory.ctypes.data in library.locked


def test_a_driver_that_refuses_is_no_error():
    library = Library({1}, refuses=True)
    memory = page_locked.empty(10, Driver(library))
    memory[:] = 1
    del memory
    gc.collect()
    assert library.locked == {}
    assert library.unlocked == []
    assert library.pushed == []


def test_no_driver_is_loaded_to_ask_it(monkeypatch):
    asked = []

    def load(name, mode):
        asked.append((name, mode))
        raise OSError

    page_locked.loaded_driver.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", load)
    assert page_locked.driver() is None
    assert page_locked.empty(5).shape == (5,)
    assert set(asked) == {("libcuda.so.1", os.RTLD_NOLOAD)}


def test_many_threads_may_ask_while_no_gpu_is_used():
    library = Library(set())
    driver = Driver(library)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            assert not any(pool.map(lambda _: driver.lock(0, 1), range(4000)))
    finally:
        sys.setswitchinterval(before)


def test_a_forked_process_has_pages_of_its_own():
    memory = page_locked.empty(4096)
    memory[:] = 1
    if not (child := os.fork()):
        memory[:] = 2
        os._exit(0)
    os.waitpid(child, 0)
    assert (memory == 1).all()
