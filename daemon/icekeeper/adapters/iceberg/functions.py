"""Java functions and consumers made of method handles: no JVM code of our own, no callbacks into Python."""

from __future__ import annotations

from typing import Any

from icekeeper.adapters.iceberg.jvm import IcebergJvm


def function_of(jvm: IcebergJvm, handle: Any) -> Any:
    """A Java Function that calls a method handle."""
    function_type = jvm.java_class("java.util.function.Function")
    return jvm.lang.invoke.MethodHandleProxies.asInterfaceInstance(function_type, handle)


def consumer_of(jvm: IcebergJvm, handle: Any) -> Any:
    """A Java Consumer that calls a method handle, and ignores what that returns."""
    signature = jvm.lang.invoke.MethodType.methodType(jvm.lang.Void.TYPE, jvm.java_class("java.lang.Object"))
    consumer_type = jvm.java_class("java.util.function.Consumer")
    return jvm.lang.invoke.MethodHandleProxies.asInterfaceInstance(consumer_type, handle.asType(signature))


def long_as_string(jvm: IcebergJvm, of: str, method: str) -> Any:
    """A Java Function: a method of an interface that returns a long, as a string."""

    def make() -> Any:
        invoke, long_type = jvm.lang.invoke, jvm.lang.Long.TYPE
        string_type = jvm.java_class("java.lang.String")
        get = jvm.lookup().findVirtual(jvm.java_class(of), method, invoke.MethodType.methodType(long_type))
        signature = invoke.MethodType.methodType(string_type, long_type)
        to_string = jvm.lookup().findStatic(string_type, "valueOf", signature)
        return function_of(jvm, invoke.MethodHandles.filterReturnValue(get, to_string))

    return jvm.once(f"{of}.{method}", make)
