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
def critic_step_cpu_float32(
    real: int,
    fake: int,
    between: int,
    weights: list[int],
    weight_strides: list[int],
    biases: list[int],
    bias_strides: list[int],
    widths: list[int],
    clients: int,
    rows: int,
    slope: float,
    penalty_weight: float,
    loss: int,
    penalty: int,
    gradient: int,
    threads: int = 1,
    isa: str = "",
) -> None: ...
def js_assign_cpu_float32(
    x: int,
    y: int,
    prototypes_x: int,
    prototypes_y: int,
    valid: int,
    divergence: int,
    assignment: int,
    rows: int,
    prototypes: int,
    width: int,
    scale: float,
    threads: int = 1,
    isa: str = "",
) -> None: ...
def js_filter_cpu_float32(
    x: int,
    y: int,
    prototypes_x: int,
    prototypes_y: int,
    valid: int,
    divergence: int,
    client: int,
    assignment: int,
    rows: int,
    clients: int,
    prototypes: int,
    width: int,
    scale: float,
    threads: int = 1,
    isa: str = "",
) -> None: ...
def js_nearest_cpu_float32(
    p: int,
    q: int,
    divergence: int,
    client: int,
    rows: int,
    clients: int,
    k: int,
    threads: int = 1,
    isa: str = "",
) -> None: ...
def kmeans_cpu_float32(
    x: int,
    draws: int,
    valid: int,
    weight: int,
    centroids: int,
    assignment: int,
    counts: int,
    clients: int,
    rows: int,
    width: int,
    count: int,
    trials: int,
    iterations: int,
    spherical: bool,
    threads: int = 1,
    isa: str = "",
) -> None: ...
def mlp_cpu_float32(
    x: int,
    params: int,
    out: int,
    kept: int,
    widths: list[int],
    lengths: list[int],
    clients: int,
    rows: int,
    stride: int,
    slope: float,
    head: str,
    threads: int = 1,
    isa: str = "",
) -> None: ...
def mlp_backward_cpu_float32(
    to_out: int,
    x: int,
    params: int,
    out: int,
    kept: int,
    to_x: int,
    to_params: int,
    widths: list[int],
    lengths: list[int],
    clients: int,
    rows: int,
    stride: int,
    slope: float,
    head: str,
    threads: int = 1,
    isa: str = "",
) -> None: ...
def train_info_nce_cpu_float32(
    params: int,
    features: int,
    index: int,
    sizes: int,
    trained: int,
    loss: int,
    widths: list[int],
    lengths: list[int],
    clients: int,
    stride: int,
    steps: int,
    batch: int,
    head: str,
    scale: float,
    rule: str,
    numbers: list[float],
    threads: int = 1,
    isa: str = "",
) -> None: ...
def prototype_nce_cpu_float32(
    x: int,
    prototypes: int,
    target: int,
    scales: int,
    scale: float,
    valid: int,
    loss: int,
    to_x: int,
    to_prototypes: int,
    to_scale: int,
    clients: int,
    rows: int,
    count: int,
    width: int,
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
def js_assign_cuda_float32(
    x: int,
    y: int,
    prototypes_x: int,
    prototypes_y: int,
    valid: int,
    divergence: int,
    assignment: int,
    rows: int,
    prototypes: int,
    width: int,
    scale: float,
    stream: int,
) -> None: ...
def js_filter_cuda_float32(
    x: int,
    y: int,
    prototypes_x: int,
    prototypes_y: int,
    valid: int,
    divergence: int,
    client: int,
    assignment: int,
    rows: int,
    clients: int,
    prototypes: int,
    width: int,
    scale: float,
    stream: int,
) -> None: ...
def js_nearest_cuda_float32(
    p: int,
    q: int,
    divergence: int,
    client: int,
    rows: int,
    clients: int,
    k: int,
    stream: int,
) -> None: ...
def prototype_nce_cuda_float32(
    x: int,
    prototypes: int,
    target: int,
    scales: int,
    scale: float,
    valid: int,
    loss: int,
    to_x: int,
    to_prototypes: int,
    to_scale: int,
    workspace: int,
    clients: int,
    rows: int,
    count: int,
    width: int,
    stream: int,
) -> None: ...
def prototype_nce_cuda_bfloat16(
    x: int,
    prototypes: int,
    target: int,
    scales: int,
    scale: float,
    valid: int,
    loss: int,
    to_x: int,
    to_prototypes: int,
    to_scale: int,
    workspace: int,
    clients: int,
    rows: int,
    count: int,
    width: int,
    stream: int,
) -> None: ...
def prototype_nce_cuda_workspace(
    clients: int,
    rows: int,
    count: int,
    width: int,
) -> int: ...
def gradient_penalty_rows_cuda_float32(
    gradient: int,
    norm: int,
    penalty: int,
    adjoint: int,
    clients: int,
    rows: int,
    width: int,
    stream: int,
) -> None: ...
def leaky_relu_mask_cuda_float32(
    z: int,
    bias: int,
    slope: float,
    a: int,
    mask: int,
    clients: int,
    rows: int,
    width: int,
    stream: int,
) -> None: ...
def mask_multiply_cuda_float32(
    x: int,
    mask: int,
    slope: float,
    out: int,
    rows: int,
    width: int,
    stream: int,
) -> None: ...
def gradient_penalty_rows_cuda_bfloat16(
    gradient: int,
    norm: int,
    penalty: int,
    adjoint: int,
    clients: int,
    rows: int,
    width: int,
    stream: int,
) -> None: ...
def leaky_relu_mask_cuda_bfloat16(
    z: int,
    bias: int,
    slope: float,
    a: int,
    mask: int,
    clients: int,
    rows: int,
    width: int,
    stream: int,
) -> None: ...
def mask_multiply_cuda_bfloat16(
    x: int,
    mask: int,
    slope: float,
    out: int,
    rows: int,
    width: int,
    stream: int,
) -> None: ...
def kmeans_assign_cuda_float32(
    x: int,
    centroids: int,
    existing: int,
    assignment: int,
    distance: int,
    clients: int,
    rows: int,
    count: int,
    width: int,
    stream: int,
) -> None: ...
def kmeans_update_cuda_float32(
    x: int,
    weight: int,
    order: int,
    start: int,
    sums: int,
    mass: int,
    clients: int,
    rows: int,
    count: int,
    width: int,
    stream: int,
) -> None: ...
