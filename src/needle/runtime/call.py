"""From Python into a kernel: one built-in function per plan, made at run time.

The function's `self` is a bytes object with all that does not change from call to call, its
arguments are `(memory, offset)` for each operand and the numbers. It allocates the result, runs
the kernel, on several threads where the plan allows, and returns the result's memory.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any

from llvmlite import ir

from needle.compiler import build
from needle.compiler.code import Code, Value
from needle.compiler.prepared import MAX_POINTERS, MAX_SCALARS, Prepared
from needle.compiler.target import Target
from needle.compiler.types import F64, I64, POINTER
from needle.runtime.available import total_bytes
from needle.runtime.memory import require_arguments, write_memory
from needle.runtime.program_code import write_programs
from needle.runtime.threads import FUNCTIONS, attach, write_pool
from needle.runtime.watch_code import write_watch

__all__ = ["bind", "builtin", "runtime_address", "runtime_function"]

# words of the bytes object
_KERNEL, _POINTERS, _SCALARS, _FLOATS, _RESULT, _TASKS, _RELEASE, _SCRATCH = range(8)
_ITEMSIZES = 8
_NUMBERS = _ITEMSIZES + MAX_POINTERS
# words of the context
_FIRST_POINTER, _FIRST_SCALAR, _SCRATCH_AT, _ERROR, _COUNTER_AT = 1, 9, 13, 14, 15
_CONTEXT_WORDS = 16

_RELEASE_AFTER = 20_000  # nanoseconds of work for which other Python threads may run
_PYTHON_FUNCTIONS = (
    "call",
    "new",
    "address",
    "size",
    "own",
    "foreign",
    "trim",
    "used",
    "kept",
    "keep",
    "run",
)


def bind(
    prepared: Prepared,
    itemsizes: Sequence[int],
    result_bytes: int | None = None,
    scalars: Sequence[bool] = (),
) -> Callable[..., Any]:
    """A function of `(memory, offset, ...)` and numbers that runs the kernel.

    itemsizes     bytes of an element of each operand that the caller gives
    result_bytes  bytes of the result, which it returns; None: there is none, the last operand
                  is written to
    scalars       for each number: whether it is handed over as a double, else as an i64
    """
    assert len(itemsizes) < MAX_POINTERS and len(scalars) <= MAX_SCALARS
    release = prepared.nanoseconds > _RELEASE_AFTER
    words = [
        prepared.address,
        len(itemsizes),
        len(scalars),
        sum(1 << i for i, is_float in enumerate(scalars) if is_float),
        -1 if result_bytes is None else result_bytes,
        prepared.tasks,
        release,
        prepared.scratch,
        *itemsizes,
        *[0] * (MAX_POINTERS - len(itemsizes)),
        *prepared.numbers,
    ]
    plan = _Plan(struct.pack(f"{len(words)}q", *words))
    plan.kernel = prepared.address
    return builtin(runtime_address("call"), plan)


class _Plan(bytes):
    """The words of a plan, and the address by which it holds its kernel."""

    kernel: int


def runtime_function(name: str) -> Callable[..., Any]:
    """new(bytes), address(memory), size(memory), foreign(address, owner, bytes), trim(), ..."""
    return builtin(runtime_address(name), b"")


def runtime_address(name: str) -> int:
    """Where a function of the runtime's module begins."""
    return _library()[f"needle_py_{name}" if name in _PYTHON_FUNCTIONS else name]


@lru_cache(maxsize=1)
def _library() -> dict[str, int]:
    code = build.object_code("runtime", _write_runtime)
    names = [f"needle_py_{name}" for name in _PYTHON_FUNCTIONS]
    addresses = build.link(code, *names, *FUNCTIONS, "needle_watch")
    attach(addresses)
    builtin(addresses["needle_py_keep"], b"")(_bytes_to_keep())
    return addresses


def _write_runtime(module: Any, target: Target) -> None:
    write_memory(module, target)
    write_pool(module, target)
    _write_call(module, target)
    write_programs(module, target)
    write_watch(module, target)


def _bytes_to_keep() -> int:
    """An eighth of the memory that the process may use."""
    total = total_bytes()
    return (1 << 30) if total is None else total // 8


def _write_call(module: Any, target: Target) -> None:
    """needle_py_call(self, args, count): see the head of this file."""
    code = Code(module, "needle_py_call", target, [POINTER, POINTER, I64], POINTER)
    bound, args, given = code.arguments
    plan = code.call("PyBytes_AsString", POINTER, bound)
    context = code.stack(_CONTEXT_WORDS * 8)
    code.set_word(context, 0, plan + _NUMBERS * 8)
    code.set_word(context, _ERROR, 0)
    pointers = code.word(plan, _POINTERS)
    require_arguments(code, given.equals(pointers * 2 + code.word(plan, _SCALARS)))
    _take_pointers(code, plan, args, context, pointers)
    with code.when(code.word(plan, _SCALARS) > 0):
        _take_scalars(code, plan, args + pointers * 16, context)
    result = code.variable(code.null())  # Py_DecRef takes null
    with code.when(code.word(plan, _RESULT) >= 0):
        made = code.call("needle_new", POINTER, code.word(plan, _RESULT))
        with code.when(code.is_null(made)):
            code.finish(code.null())
        result.set(made)
        data = code.call("PyCapsule_GetPointer", POINTER, made, code.null())
        code.set_word(context, pointers + _FIRST_POINTER, data)
    tasks = code.minimum(code.word(plan, _TASKS), code.call("needle_pool_size", I64))
    _with_scratch(code, plan, context, tasks, lambda: _run(code, plan, context, tasks), result)
    with code.when(code.word(context, _ERROR).differs(0)):
        code.call("Py_DecRef", None, result.get())
        _raise_index_error(code, code.word(context, _ERROR) - 1)
    with code.when(code.is_null(result.get())):
        code.finish(code.call("PyBool_FromLong", POINTER, code.constant(1, I64)))
    code.finish(result.get())


def _take_pointers(code: Code, plan: Value, args: Value, context: Value, count: Value) -> None:
    lowest = code.variable(code.constant(0, I64))
    with code.loop(0, count) as i:
        capsule = code.pointer_at(args, i * 2)
        data = code.call("PyCapsule_GetPointer", POINTER, capsule, code.null())
        with code.when(code.is_null(data)):
            code.finish(code.null())
        offset = code.call("PyLong_AsSsize_t", I64, code.pointer_at(args, i * 2 + 1))
        lowest.set(code.minimum(lowest.get(), offset))
        itemsize = code.word(plan, i + _ITEMSIZES)
        code.set_word(context, i + _FIRST_POINTER, data + offset * itemsize)
    with code.when(lowest.get() < 0):  # -1 also stands for what is no int
        _leave_on_error(code)


def _leave_on_error(code: Code) -> None:
    with code.when(~code.is_null(code.call("PyErr_Occurred", POINTER))):
        code.finish(code.null())


def _take_scalars(code: Code, plan: Value, args: Value, context: Value) -> None:
    with code.loop(0, code.word(plan, _SCALARS)) as i:
        given, slot = code.pointer_at(args, i), i + _FIRST_SCALAR
        is_float = ((code.word(plan, _FLOATS) >> i) & 1).differs(0)

        def as_double(given: Value = given, slot: Value = slot) -> None:
            number = code.call("PyFloat_AsDouble", F64, given)
            code.set_word(context, slot, number.bits_as(I64))

        def as_integer(given: Value = given, slot: Value = slot) -> None:
            number = code.call("PyLong_AsUnsignedLongLongMask", I64, given)
            code.set_word(context, slot, number)

        code.either(is_float, as_double, as_integer)
    _leave_on_error(code)


def _with_scratch(
    code: Code, plan: Value, context: Value, tasks: Value, run: Callable[[], None], result: Any
) -> None:
    each = code.word(plan, _SCRATCH)

    def with_it() -> None:
        scratch = code.call("needle_allocate", POINTER, each * tasks)
        with code.when(code.is_null(scratch)):
            code.call("Py_DecRef", None, result.get())
            code.finish(code.call("PyErr_NoMemory", POINTER))
        for word in range(8):
            code.set_word(scratch, word, 0)
        code.set_word(context, _SCRATCH_AT, scratch)
        code.set_word(context, _COUNTER_AT, scratch)  # the first word, which is 0
        run()
        code.call("needle_free", None, scratch)

    code.either(each > 0, with_it, run)


def _run(code: Code, plan: Value, context: Value, tasks: Value) -> None:
    def once() -> None:
        kernel = code.pointer_at(plan, _KERNEL)
        code.either(
            tasks > 1,
            lambda: code.call("needle_parallel", I64, kernel, context, tasks),
            lambda: code.call_pointer(
                kernel, context, code.constant(0, I64), code.constant(1, I64)
            ),
        )

    def with_gil_released() -> None:
        state = code.call("PyEval_SaveThread", POINTER)
        once()
        code.call("PyEval_RestoreThread", None, state)

    code.either(code.word(plan, _RELEASE).differs(0), with_gil_released, once)


def _raise_index_error(code: Code, position: Value) -> None:
    """IndexError(position), for the caller to put into words."""
    variable = code.module.globals.get("PyExc_IndexError")
    if variable is None:
        variable = ir.GlobalVariable(code.module, ir.PointerType(), "PyExc_IndexError")
    kind = code.pointer_at(code.address(variable), 0)
    number = code.call("PyLong_FromSsize_t", POINTER, position)
    code.call("PyErr_SetObject", None, kind, number)
    code.call("Py_DecRef", None, number)
    code.finish(code.null())


class _MethodDefinition(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


_METH_FASTCALL = 0x80


@cache
def _definition(address: int) -> _MethodDefinition:
    """CPython keeps a pointer to it, so it stays for good.

    Also while the interpreter ends, when modules go before the functions that somebody still holds:
    it has a reference more than anybody gives back.
    """
    definition = _MethodDefinition(b"kernel", address, _METH_FASTCALL, None)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(definition))
    return definition


@lru_cache(maxsize=1)
def _make_builtin() -> Any:
    function = ctypes.pythonapi.PyCFunction_NewEx
    function.restype = ctypes.py_object
    function.argtypes = [ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p]
    return function


def builtin(address: int, bound: bytes) -> Callable[..., Any]:
    """A function of CPython's own kind: machine code and the object that is its `self`."""
    definition = ctypes.addressof(_definition(address))
    return _make_builtin()(definition, bound, None)  # type: ignore[no-any-return]
