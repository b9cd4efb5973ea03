def cpu_isas() -> tuple[str, ...]: ...
def cpu_isa() -> str: ...
def cuda_compiled() -> bool: ...
def js_divergence_cpu_float32(
    p: int, q: int, out: int, rows: int, k: int, threads: int = 1, isa: str = ""
) -> None: ...
def js_divergence_cpu_float64(
    p: int, q: int, out: int, rows: int, k: int, threads: int = 1, isa: str = ""
) -> None: ...
def js_divergence_backward_cpu_float32(
    grad: int,
    p: int,
    q: int,
    grad_p: int,
    grad_q: int,
    rows: int,
    k: int,
    threads: int = 1,
    isa: str = "",
) -> None: ...
def js_divergence_backward_cpu_float64(
    grad: int,
    p: int,
    q: int,
    grad_p: int,
    grad_q: int,
    rows: int,
    k: int,
    threads: int = 1,
    isa: str = "",
) -> None: ...

# Only where cuda_compiled().
def js_divergence_cuda_float32(
    p: int, q: int, out: int, rows: int, k: int, stream: int
) -> None: ...
def js_divergence_cuda_float64(
    p: int, q: int, out: int, rows: int, k: int, stream: int
) -> None: ...
def js_divergence_backward_cuda_float32(
    grad: int, p: int, q: int, grad_p: int, grad_q: int, rows: int, k: int, stream: int
) -> None: ...
def js_divergence_backward_cuda_float64(
    grad: int, p: int, q: int, grad_p: int, grad_q: int, rows: int, k: int, stream: int
) -> None: ...
