"""Memory of arrays, allocated natively: 64-byte aligned, freed with its last view, re-used.

Memory is a capsule of CPython around the address of the first byte. Its context points to a note
of two words: of memory of our own, its size class, by which it goes back to the list that it is
re-used from, and its bytes (the note lies in front of the memory); of memory of somebody else's,
the owner, who is held as long as it is, and its bytes. All of this runs under the GIL, which is its
lock.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from needle.compiler.code import Code, Value
from needle.compiler.target import Target
from needle.compiler.types import I32, I64, POINTER

__all__ = ["HEADER", "require_arguments", "write_memory"]

HEADER = 64
_CLASSES = 4 * 64  # four sizes between powers of two
_SMALLEST = 128  # bytes; and at least this is allocated
# Linux on x86, ARM and others: bytes of a huge page, and names from its headers.
_LARGE = 2 << 20
_PROT_READ_WRITE, _MAP_PRIVATE_ANONYMOUS, _MADV_HUGEPAGE = 3, 0x22, 14


def write_memory(module: Any, target: Target) -> None:
    """The functions `needle_allocate`, `needle_free`, `needle_new` and what Python calls.

    Nothing is kept for re-use until `keep(bytes)` says how much may be.
    """
    _global(module, "needle_free_lists", ir.ArrayType(ir.PointerType(), _CLASSES))
    _global(module, "needle_kept_bytes", I64.ir)
    _global(module, "needle_used_bytes", I64.ir)
    _global(module, "needle_keep_at_most", I64.ir)
    _write_class_of(module, target)
    _write_trim(module, target)
    _write_allocate(module, target)
    _write_free(module, target)
    _write_destructors(module, target)
    _write_new(module, target)
    _write_for_python(module, target)
    _write_counts(module, target)


def _global(module: Any, name: str, type: Any) -> None:
    variable = ir.GlobalVariable(module, type, name)
    variable.initializer = ir.Constant(type, None)
    variable.linkage = "internal"


def address_of_global(code: Code, name: str) -> Value:
    """Where a variable of the module lies."""
    return code.address(code.module.globals[name])


def _write_class_of(module: Any, target: Target) -> None:
    """needle_class_of(bytes): the smallest class that holds so many: 4 · log2, in quarters."""
    code = Code(module, "needle_class_of", target, [I64], I64)
    least = code.maximum(code.arguments[0], _SMALLEST) - 1
    false = ir.Constant(ir.IntType(1), 0)
    zeros = code.builder.ctlz(least.ir, false)
    exponent = code.constant(63, I64) - code.wrap(zeros, I64)  # 2^exponent <= least
    quarter = (least >> (exponent - 2)) & 3
    code.finish(exponent * 4 + quarter)
    code = Code(module, "needle_class_size", target, [I64], I64)
    (number,) = code.arguments
    code.finish(((number & 3) + 5) << ((number >> 2) - 2))


def _write_allocate(module: Any, target: Target) -> None:
    """needle_allocate(bytes): 64-byte aligned memory, or null."""
    code = Code(module, "needle_allocate", target, [I64], POINTER)
    number = code.call("needle_class_of", I64, code.arguments[0])
    size = code.call("needle_class_size", I64, number)
    used = address_of_global(code, "needle_used_bytes")
    kept = address_of_global(code, "needle_kept_bytes")
    head = address_of_global(code, "needle_free_lists") + number * 8
    first = code.word(head, 0)
    with code.when(first.differs(0)):
        block = code.pointer_at(head, 0)
        code.set_word(head, 0, code.word(block, 1))
        code.set_word(kept, 0, code.word(kept, 0) - size)
        code.set_word(used, 0, code.word(used, 0) + size)
        code.finish(block + HEADER)
    found = code.variable(_from_system(code, size + HEADER))
    with code.when(code.is_null(found.get())):
        code.call("needle_trim", I64)
        found.set(_from_system(code, size + HEADER))
    block = found.get()
    with code.when(code.is_null(block)):
        code.finish(block)
    code.set_word(block, 0, number)
    code.set_word(used, 0, code.word(used, 0) + size)
    code.finish(block + HEADER)


def _from_system(code: Code, size: Value) -> Value:
    """So many bytes, and a few more, 64-byte aligned; or null."""
    whole = ((size + 63) >> 6) << 6
    if "windows" in code.target.triple:
        return code.call("_aligned_malloc", POINTER, whole, code.constant(64, I64))
    slot = code.stack(8, 8)
    code.set_word(slot, 0, 0)

    def small() -> None:
        failed = code.call("posix_memalign", I32, slot, code.constant(64, I64), whole)
        with code.when(failed.differs(0)):
            code.set_word(slot, 0, 0)

    if "linux" in code.target.triple:
        code.either(whole >= _LARGE, lambda: _map(code, whole, slot), small)
    else:
        small()
    return code.pointer_at(slot, 0)


def _map(code: Code, size: Value, slot: Value) -> None:
    """Pages of their own, huge ones if there are; their address goes into the slot.

    The C library would keep them when they are freed: it takes blocks of up to 32 MiB from its heap
    once one such block has been freed.
    """
    protection, flags, no_file = (
        code.constant(number, I32) for number in (_PROT_READ_WRITE, _MAP_PRIVATE_ANONYMOUS, -1)
    )
    start = code.constant(0, I64)
    address = code.call("mmap", I64, code.null(), size, protection, flags, no_file, start)
    with code.when(address.differs(-1)):
        code.set_word(slot, 0, address)
        advice = code.constant(_MADV_HUGEPAGE, I32)  # which may be refused
        code.call("madvise", I32, code.pointer_at(slot, 0), size, advice)


def _to_system(code: Code, block: Value) -> None:
    if "linux" not in code.target.triple:
        free = "_aligned_free" if "windows" in code.target.triple else "free"
        code.call(free, None, block)
        return
    size = code.call("needle_class_size", I64, code.word(block, 0)) + HEADER
    code.either(
        size >= _LARGE,
        lambda: code.call("munmap", I32, block, size),
        lambda: code.call("free", None, block),
    )


def _write_free(module: Any, target: Target) -> None:
    """needle_free(memory): back to its list, or to the system where enough is kept."""
    code = Code(module, "needle_free", target, [POINTER])
    block = code.arguments[0] + (-HEADER)
    number = code.word(block, 0)
    size = code.call("needle_class_size", I64, number)
    kept = address_of_global(code, "needle_kept_bytes")
    used = address_of_global(code, "needle_used_bytes")
    code.set_word(used, 0, code.word(used, 0) - size)
    total = code.word(kept, 0) + size
    most = code.word(address_of_global(code, "needle_keep_at_most"), 0)

    def keep() -> None:
        head = address_of_global(code, "needle_free_lists") + number * 8
        code.set_word(block, 1, code.word(head, 0))
        code.set_word(head, 0, block)
        code.set_word(kept, 0, total)

    code.either(total <= most, keep, lambda: _to_system(code, block))
    code.finish()


def _write_destructors(module: Any, target: Target) -> None:
    """What CPython calls when nobody holds a capsule any more."""
    code = Code(module, "needle_destroy", target, [POINTER])
    null = code.null()
    memory = code.call("PyCapsule_GetPointer", POINTER, code.arguments[0], null)
    code.call("needle_free", None, memory)
    code.finish()

    code = Code(module, "needle_release_owner", target, [POINTER])
    note = code.call("PyCapsule_GetContext", POINTER, code.arguments[0])
    code.call("Py_DecRef", None, code.pointer_at(note, 0))
    code.call("needle_free", None, note)
    code.finish()


def _write_new(module: Any, target: Target) -> None:
    """needle_new(bytes): a capsule of fresh memory."""
    code = Code(module, "needle_new", target, [I64], POINTER)
    (size,) = code.arguments
    memory = code.call("needle_allocate", POINTER, size)
    with code.when(code.is_null(memory)):
        code.finish(code.call("PyErr_NoMemory", POINTER))
    note = memory + (-HEADER)
    code.set_word(note, 1, size)
    code.finish(_capsule(code, memory, note, "needle_destroy"))


def _capsule(code: Code, memory: Value, note: Value, destructor: str) -> Value:
    destroy = code.address(code.module.globals[destructor])
    capsule = code.call("PyCapsule_New", POINTER, memory, code.null(), destroy)
    with code.when(code.is_null(capsule)):
        code.finish(capsule)
    code.call("PyCapsule_SetContext", I32, capsule, note)
    return capsule


def _write_for_python(module: Any, target: Target) -> None:
    """new(bytes), address(memory), size(memory), own(memory, bytes), foreign(address, ...)."""
    code, args = _python_function(module, target, "new", 1)
    size = _count(code, code.pointer_at(args, 0))
    code.finish(code.call("needle_new", POINTER, size))

    code, args = _python_function(module, target, "address", 1)
    address = code.call("PyCapsule_GetPointer", POINTER, code.pointer_at(args, 0), code.null())
    with code.when(code.is_null(address)):
        code.finish(address)
    code.finish(code.call("PyLong_FromVoidPtr", POINTER, address))

    code, args = _python_function(module, target, "size", 1)
    note = code.call("PyCapsule_GetContext", POINTER, code.pointer_at(args, 0))
    with code.when(code.is_null(note)):
        code.finish(note)
    code.finish(code.call("PyLong_FromSsize_t", POINTER, code.word(note, 1)))

    # whether `new` has given it, for so many bytes: its note begins with a class, no address
    code, args = _python_function(module, target, "own", 2)
    note = code.call("PyCapsule_GetContext", POINTER, code.pointer_at(args, 0))
    with code.when(code.is_null(note)):
        code.finish(note)
    size = _count(code, code.pointer_at(args, 1))
    is_own = (code.word(note, 0) < _CLASSES) & code.word(note, 1).equals(size)
    one = code.constant(1, I64)
    code.finish(code.call("PyBool_FromLong", POINTER, code.select(is_own, one, 0)))

    code, args = _python_function(module, target, "foreign", 3)
    address = code.call("PyLong_AsVoidPtr", POINTER, code.pointer_at(args, 0))
    owner = code.pointer_at(args, 1)
    size = _count(code, code.pointer_at(args, 2))
    note = code.call("needle_allocate", POINTER, code.constant(16, I64))
    with code.when(code.is_null(note)):
        code.finish(code.call("PyErr_NoMemory", POINTER))
    code.set_word(note, 0, owner)
    code.set_word(note, 1, size)
    code.call("Py_IncRef", None, owner)
    code.finish(_capsule(code, address, note, "needle_release_owner"))


def _python_function(module: Any, target: Target, name: str, count: int) -> tuple[Code, Value]:
    """A function that CPython calls with so many arguments, and where those are."""
    code = Code(module, f"needle_py_{name}", target, [POINTER, POINTER, I64], POINTER)
    require_arguments(code, code.arguments[2].equals(count))
    return code, code.arguments[1]


def require_arguments(code: Code, fitting: Value) -> None:
    """Leave with a TypeError unless the arguments fit."""
    with code.when(~fitting):
        code.call("PyErr_BadArgument", I32)
        code.finish(code.null())


def _count(code: Code, given: Value) -> Value:
    """A Python int of 0 or more; leaves with an error where it is none."""
    number = code.call("PyLong_AsSsize_t", I64, given)
    with code.when(number < 0):
        with code.when(code.is_null(code.call("PyErr_Occurred", POINTER))):
            code.call("PyErr_BadArgument", I32)
        code.finish(code.null())
    return number


def _write_trim(module: Any, target: Target) -> None:
    """needle_trim(): give everything that is kept back to the system; how many bytes it was."""
    code = Code(module, "needle_trim", target, [], I64)
    lists = address_of_global(code, "needle_free_lists")
    kept = address_of_global(code, "needle_kept_bytes")
    before = code.word(kept, 0)
    with code.loop(0, _CLASSES) as number:
        head = lists + number * 8
        with code.repeat_while(lambda: code.word(head, 0).differs(0)):
            block = code.pointer_at(head, 0)
            code.set_word(head, 0, code.word(block, 1))
            _to_system(code, block)
    code.set_word(kept, 0, 0)
    code.finish(before)


def _write_counts(module: Any, target: Target) -> None:
    """trim(), used(), kept(), and keep(bytes): how much is kept at most."""
    code, _ = _python_function(module, target, "trim", 0)
    code.finish(code.call("PyLong_FromSsize_t", POINTER, code.call("needle_trim", I64)))
    for name in ("used", "kept"):
        code, _ = _python_function(module, target, name, 0)
        count = code.word(address_of_global(code, f"needle_{name}_bytes"), 0)
        code.finish(code.call("PyLong_FromSsize_t", POINTER, count))
    code, args = _python_function(module, target, "keep", 1)
    code.set_word(address_of_global(code, "needle_keep_at_most"), 0,
                  _count(code, code.pointer_at(args, 0)))  # fmt: skip
    code.finish(code.call("PyBool_FromLong", POINTER, code.constant(1, I64)))
