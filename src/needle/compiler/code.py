"""Writing a native function: values with Python's operators, memory, loops and branches.

A thin layer over llvmlite's IR builder. A `Value` has a type and a number of lanes; one lane is a
scalar. Numbers and scalars next to vectors are spread over the lanes, so that one Python function
writes both the vector loop and the scalar rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir

from needle.compiler import half
from needle.compiler.flow import Flow
from needle.compiler.target import Target
from needle.compiler.types import BOOL, F32, F64, I64, POINTER, TYPES, Type, itemsize
from needle.compiler.value import Value, Variable

__all__ = ["Code", "Value"]

_BYTE = ir.IntType(8)


class Code(Flow):
    """A native function being written.

    module     llvmlite's module, which it becomes part of
    name       its symbol
    target     the machine it is written for
    arguments  types of its arguments; they are in `self.arguments`
    result     type of what it returns; None: nothing
    """

    def __init__(
        self,
        module: Any,
        name: str,
        target: Target,
        arguments: Sequence[Type] = (POINTER, I64, I64),
        result: Type | None = None,
    ) -> None:
        self.target, self.module = target, module
        signature = ir.FunctionType(
            ir.VoidType() if result is None else result.ir, [t.ir for t in arguments]
        )
        self.function = ir.Function(module, signature, name)
        self.builder = ir.IRBuilder(self.function.append_basic_block("entry"))
        self.arguments = [
            Value(self, argument, type)
            for argument, type in zip(self.function.args, arguments, strict=True)
        ]

    # -- values --------------------------------------------------------------------------------

    def ir_type(self, type: Type, lanes: int = 1) -> Any:
        """The LLVM type of that many lanes."""
        return type.ir if lanes == 1 else ir.VectorType(type.ir, lanes)

    def wrap(self, value: Any, type: Type) -> Value:
        """A `Value` of an LLVM value."""
        return Value(self, value, type)

    def constant(self, number: Any, type: Type, lanes: int = 1) -> Value:
        """A number, in every lane."""
        if type is F32:
            number = float(np.float32(number))
        elif type is F64:
            number = float(number)
        else:
            number = int(number)
        if lanes == 1:
            return self.wrap(ir.Constant(type.ir, number), type)
        return self.wrap(ir.Constant(self.ir_type(type, lanes), [number] * lanes), type)

    def row(self, numbers: Sequence[Any], type: Type) -> Value:
        """A vector of constants: one number per lane."""
        items = [ir.Constant(type.ir, n) for n in numbers]
        return self.wrap(ir.Constant(self.ir_type(type, len(items)), items), type)

    def as_value(self, x: Any, type: Type) -> Value:
        """`x` itself, or the number `x` as a constant of that type."""
        return x if isinstance(x, Value) else self.constant(x, type)

    def spread(self, x: Value, lanes: int) -> Value:
        """A scalar in every lane; a vector of that many lanes as it is."""
        if x.lanes == lanes:
            return x
        if isinstance(x.ir, ir.Constant):
            return self.wrap(ir.Constant(self.ir_type(x.type, lanes), [x.ir] * lanes), x.type)
        wide = self.ir_type(x.type, lanes)
        zero = ir.Constant(ir.IntType(32), 0)
        undefined = ir.Constant(wide, ir.Undefined)
        first = self.builder.insert_element(undefined, x.ir, zero)
        mask = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
        return self.wrap(self.builder.shuffle_vector(first, undefined, mask), x.type)

    def lane(self, x: Value, number: Any) -> Value:
        """One lane of a vector, as a scalar; the number may be a Value."""
        where = number.ir if isinstance(number, Value) else ir.Constant(ir.IntType(32), number)
        return self.wrap(self.builder.extract_element(x.ir, where), x.type)

    def with_lane(self, x: Value, number: int, scalar: Value) -> Value:
        """A vector with one lane replaced."""
        where = ir.Constant(ir.IntType(32), number)
        return self.wrap(self.builder.insert_element(x.ir, scalar.ir, where), x.type)

    def from_lanes(self, scalars: Sequence[Value]) -> Value:
        """A vector of scalars; a single one stays a scalar."""
        if len(scalars) == 1:
            return scalars[0]
        wide = self.ir_type(scalars[0].type, len(scalars))
        x = self.wrap(ir.Constant(wide, ir.Undefined), scalars[0].type)
        for number, scalar in enumerate(scalars):
            x = self.with_lane(x, number, scalar)
        return x

    def shuffle(self, a: Value, b: Value, lanes: Sequence[int]) -> Value:
        """Lanes of two vectors, b's counted on from a's."""
        mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes))
        return self.wrap(self.builder.shuffle_vector(a.ir, b.ir, mask), a.type)

    def variable(self, value: Value) -> Variable:
        """Something to assign to in loops, with a first value."""
        return Variable(self, value)

    def _alike(self, a: Any, b: Any) -> tuple[Value, Value]:
        """Two operands of one type and one number of lanes; one of them may be a number."""
        type = a.type if isinstance(a, Value) else b.type
        a, b = self.as_value(a, type), self.as_value(b, type)
        if a.type != b.type and not (
            a.type.bits == b.type.bits and {a.type.kind, b.type.kind} == {"i", "u"}
        ):
            raise TypeError(f"operands of types {a.type} and {b.type}")
        lanes = max(a.lanes, b.lanes)
        return a.spread(lanes), b.spread(lanes)

    # -- arithmetic ----------------------------------------------------------------------------

    def arithmetic(self, name: str, a: Any, b: Any) -> Value:
        """add, sub, mul, div, rem."""
        a, b = self._alike(a, b)
        if a.type.is_float:
            name = "f" + name
        elif name in ("div", "rem"):
            name = ("s" if a.type.kind == "i" else "u") + name
        return self.wrap(getattr(self.builder, name)(a.ir, b.ir), a.type)

    def bitwise(self, name: str, a: Any, b: Any) -> Value:
        """and_, or_, xor, shl, ashr, lshr."""
        a, b = self._alike(a, b)
        return self.wrap(getattr(self.builder, name)(a.ir, b.ir), a.type)

    def compare(self, operator: str, a: Any, b: Any) -> Value:
        """A bool per lane; every comparison but != is False for NaN."""
        a, b = self._alike(a, b)
        if a.type.is_float:
            function = (
                self.builder.fcmp_unordered if operator == "!=" else self.builder.fcmp_ordered
            )
        else:
            function = (
                self.builder.icmp_signed if a.type.kind == "i" else self.builder.icmp_unsigned
            )
        return self.wrap(function(operator, a.ir, b.ir), BOOL)

    def select(self, condition: Value, a: Any, b: Any) -> Value:
        """a where the condition holds, else b."""
        a, b = self._alike(a, b)
        lanes = max(a.lanes, condition.lanes)
        a, b = a.spread(lanes), b.spread(lanes)
        condition = condition.spread(lanes)
        return self.wrap(self.builder.select(condition.ir, a.ir, b.ir), a.type)

    def choose(self, condition: Value, a: Value, b: Value) -> Value:
        """One of two addresses."""
        return self.wrap(self.builder.select(condition.ir, a.ir, b.ir), POINTER)

    def fma(self, a: Any, b: Any, c: Value) -> Value:
        """a · b + c with one rounding; where the machine has no such instruction, with two."""
        lanes = max(x.lanes for x in (a, b, c) if isinstance(x, Value))
        x, y, z = [self.as_value(value, c.type).spread(lanes) for value in (a, b, c)]
        return self.intrinsic("fma", x, y, z) if self.target.has_fma else x * y + z

    def intrinsic(self, name: str, *operands: Value, suffix: bool = True) -> Value:
        """`llvm.<name>` of operands of one type, giving that type: sqrt, fabs, maximum, ..."""
        first = operands[0]
        kind = ("v" + str(first.lanes) if first.lanes > 1 else "") + (
            "f" if first.type.is_float else "i"
        )
        symbol = f"llvm.{name}" + (
            f".{kind}{1 if first.type is BOOL else first.type.bits}" if suffix else ""
        )
        wide = first.ir.type
        function = self.declare(symbol, wide, [wide] * len(operands))
        return self.wrap(self.builder.call(function, [x.ir for x in operands]), first.type)

    def declare(self, symbol: str, result: Any, arguments: Sequence[Any]) -> Any:
        """A function defined elsewhere, by LLVM types."""
        found = self.module.globals.get(symbol)
        if found is None:
            found = ir.Function(self.module, ir.FunctionType(result, list(arguments)), symbol)
        return found

    def call(self, symbol: str, result: Type | None, *operands: Value) -> Value:
        """A function of the process, by name; `result` None for one that returns nothing."""
        returned = ir.VoidType() if result is None else result.ir
        function = self.declare(symbol, returned, [x.ir.type for x in operands])
        called = self.builder.call(function, [x.ir for x in operands])
        return self.wrap(called, result or I64)

    def call_libm(self, name: str, *operands: Value) -> Value:
        """A function of C's maths library, lane by lane."""
        type = operands[0].type
        symbol = name if type is F64 else name + "f"
        function = self.declare(symbol, type.ir, [type.ir] * len(operands))
        function.attributes.add("nounwind")
        lanes = operands[0].lanes
        if lanes == 1:
            return self.wrap(self.builder.call(function, [x.ir for x in operands]), type)
        results = [
            self.wrap(self.builder.call(function, [self.lane(x, i).ir for x in operands]), type)
            for i in range(lanes)
        ]
        return self.from_lanes(results)

    def minimum(self, a: Any, b: Any) -> Value:
        """The smaller; NaN where either is. -0.0 is below 0.0; to the primitive they are equal."""
        a, b = self._alike(a, b)
        if a.type.is_float:
            return self.intrinsic("minimum", a, b)
        return self.select(a < b, a, b)

    def maximum(self, a: Any, b: Any) -> Value:
        """The larger; NaN where either is. -0.0 is below 0.0; to the primitive they are equal."""
        a, b = self._alike(a, b)
        if a.type.is_float:
            return self.intrinsic("maximum", a, b)
        return self.select(a > b, a, b)

    def cast(self, x: Value, type: Type) -> Value:
        """The nearest value of another type; floats are cut off towards zero; to bool: x != 0."""
        a, b = x.type, type
        if a == b:
            return x
        if b is BOOL:
            return x.differs(0)
        wide = self.ir_type(b, x.lanes)
        if a.is_float and b.is_float:
            name = "fpext" if b.bits > a.bits else "fptrunc"
        elif a.is_float:
            return self._float_to_integer(x, b)
        elif b.is_float:
            name = "sitofp" if a.kind == "i" else "uitofp"
        elif b.bits > (1 if a is BOOL else a.bits):
            name = "sext" if a.kind == "i" else "zext"
        elif b.bits < a.bits:
            name = "trunc"
        else:
            return self.wrap(x.ir, b)
        return self.wrap(getattr(self.builder, name)(x.ir, wide), b)

    def convert(self, x: Value, dtype: str) -> Value:
        """`cast` to what a dtype has in registers; to 16 bits so that `store` alone rounds."""
        return half.odd_float32(self, x) if dtype in half.STORAGE else self.cast(x, TYPES[dtype])

    def _float_to_integer(self, x: Value, type: Type) -> Value:
        """Cut off towards zero by way of int64, as NumPy does; out of range it is what it is."""
        middle = ir.IntType(64 if type.bits == 64 or type.kind == "u" else 32)
        name = "fptoui" if type.kind == "u" and type.bits == 64 else "fptosi"
        kind = "ui" if name == "fptoui" else "si"
        vector = f"v{x.lanes}" if x.lanes > 1 else ""
        wide = middle if x.lanes == 1 else ir.VectorType(middle, x.lanes)
        symbol = f"llvm.fpto{kind}.sat.{vector}i{middle.width}.{vector}f{x.type.bits}"
        function = self.declare(symbol, wide, [x.ir.type])
        whole = self.builder.call(function, [x.ir])
        if middle.width > type.bits:
            whole = self.builder.trunc(whole, self.ir_type(type, x.lanes))
        return self.wrap(whole, type)

    # -- memory --------------------------------------------------------------------------------

    def offset(self, pointer: Value, bytes: Any) -> Value:
        """An address so many bytes on."""
        count = self.as_value(bytes, I64)
        moved = self.builder.gep(pointer.ir, [count.ir], source_etype=_BYTE)
        return self.wrap(moved, POINTER)

    def load(
        self,
        pointer: Value,
        dtype: str = "int64",
        index: Any = 0,
        lanes: int = 1,
        mask: Value | None = None,
    ) -> Value:
        """Neighbouring elements from `index` on, in the type they have in registers.

        mask: lanes that are not set are not read, and hold 0.
        """
        where = self.offset(pointer, self.as_value(index, I64) * itemsize(dtype))
        raw = half.STORAGE.get(dtype) or (ir.IntType(8) if dtype == "bool" else TYPES[dtype].ir)
        wide = raw if lanes == 1 else ir.VectorType(raw, lanes)
        if mask is None:
            loaded = self.builder.load(where.ir, typ=wide)
            loaded.align = itemsize(dtype)
        else:
            loaded = self._masked_load(where, wide, itemsize(dtype), mask)
        return self._in_register(loaded, dtype)

    def _masked_load(self, where: Value, wide: Any, align: int, mask: Value) -> Any:
        element = wide.element
        suffix = f"v{wide.count}{_mangled(element)}"
        function = self.declare(
            f"llvm.masked.load.{suffix}.p0", wide, [ir.PointerType(), mask.ir.type, wide]
        )
        return self.builder.call(function, [where.ir, mask.ir, ir.Constant(wide, None)])

    def _in_register(self, loaded: Any, dtype: str) -> Value:
        if dtype in half.STORAGE:
            return half.widen(self, loaded, dtype)
        if dtype == "bool":
            zero = ir.Constant(loaded.type, None)
            return self.wrap(self.builder.icmp_unsigned("!=", loaded, zero), BOOL)
        return self.wrap(loaded, TYPES[dtype])

    def store(
        self,
        value: Value,
        pointer: Value,
        dtype: str = "int64",
        index: Any = 0,
        mask: Value | None = None,
        streamed: bool = False,
    ) -> None:
        """Write the lanes to neighbouring elements from `index` on.

        mask: lanes that are not set are not written; the memory there stays as it is.
        streamed: past the caches, into which nothing is read first. The address is a multiple of
        the size of all lanes, and a `fence` comes before anybody else reads that.
        """
        where = self.offset(pointer, self.as_value(index, I64) * itemsize(dtype))
        if dtype in half.STORAGE:
            raw = half.narrow(self, value, dtype)
        elif dtype == "bool":
            byte = ir.IntType(8)
            wide = byte if value.lanes == 1 else ir.VectorType(byte, value.lanes)
            raw = self.builder.zext(value.ir, wide)
        else:
            raw = value.ir
        if mask is None:
            stored = self.builder.store(raw, where.ir)
            stored.align = itemsize(dtype) * (value.lanes if streamed else 1)
            if streamed:
                one = ir.Constant(ir.IntType(32), 1)
                stored.set_metadata("nontemporal", self.module.add_metadata([one]))
            return
        function = self.declare(
            f"llvm.masked.store.v{value.lanes}{_mangled(raw.type.element)}.p0",
            ir.VoidType(),
            [raw.type, ir.PointerType(), mask.ir.type],
        )
        self.builder.call(function, [raw, where.ir, mask.ir])

    def fence(self) -> None:
        """What was written before, streamed or not, is seen before what is written after."""
        self.builder.fence("seq_cst")

    def prefetch(self, pointer: Value, to_write: bool = False) -> None:
        """Ask for the cache line there; it need not be memory of ours."""
        flag = ir.IntType(32)
        function = self.declare(
            "llvm.prefetch.p0", ir.VoidType(), [ir.PointerType(), flag, flag, flag]
        )
        numbers = [ir.Constant(flag, x) for x in (int(to_write), 3, 1)]
        self.builder.call(function, [pointer.ir, *numbers])

    def word(self, pointer: Value, number: Any) -> Value:
        """The i64 with that number in a row of them."""
        return self.load(pointer, "int64", number)

    def set_word(self, pointer: Value, number: Any, value: Any) -> None:
        """Write the i64, or the address, with that number in a row of them."""
        where = self.offset(pointer, self.as_value(number, I64) * 8)
        self.builder.store(self.as_value(value, I64).ir, where.ir)

    def pointer_at(self, pointer: Value, number: Any) -> Value:
        """The address with that number in a row of them."""
        where = self.offset(pointer, self.as_value(number, I64) * 8)
        return self.wrap(self.builder.load(where.ir, typ=ir.PointerType()), POINTER)

    def stack(self, bytes: int, align: int = 64) -> Value:
        """Memory of this call."""
        with self.builder.goto_entry_block():
            slot = self.builder.alloca(ir.ArrayType(_BYTE, bytes))
        slot.align = align
        return self.address(slot)

    def address(self, named: Any) -> Value:
        """The address of a global or a slot of llvmlite's, whose pointers have types."""
        plain = self.builder.gep(named, [I64.ir(0)], source_etype=_BYTE)
        plain.type = ir.PointerType()
        return self.wrap(plain, POINTER)

    def null(self) -> Value:
        """The null pointer."""
        return self.wrap(ir.Constant(ir.PointerType(), None), POINTER)

    def is_null(self, pointer: Value) -> Value:
        """Whether it is the null pointer."""
        null = ir.Constant(ir.PointerType(), None)
        return self.wrap(self.builder.icmp_unsigned("==", pointer.ir, null), BOOL)

    def call_pointer(self, function: Value, *operands: Value) -> None:
        """Call a kernel by its address."""
        type = ir.FunctionType(ir.VoidType(), [x.ir.type for x in operands])
        integer = self.builder.ptrtoint(function.ir, I64.ir)
        typed = self.builder.inttoptr(integer, type.as_pointer())
        self.builder.call(typed, [x.ir for x in operands])

    def finish(self, result: Value | None = None) -> None:
        """Return."""
        if result is None:
            self.builder.ret_void()
        else:
            self.builder.ret(result.ir)


def _mangled(element: Any) -> str:
    if isinstance(element, ir.FloatType):
        return "f32"
    if isinstance(element, ir.DoubleType):
        return "f64"
    return str(element)  # i8, i16, ...
