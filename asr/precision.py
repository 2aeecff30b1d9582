"""Which type of arithmetic a GPU is fast in, and a model can be trusted in."""


def cuda_dtype(capability: tuple[int, int]) -> tuple[str, str]:
    """The type for a GPU of this compute capability (major, minor), and why.

    bfloat16 from 8.0 on (Ampere), float16 from 7.0 on (Volta, Turing: T4), else float32.
    """
    name = f"compute capability {capability[0]}.{capability[1]}"
    if capability >= (8, 0):
        return "bfloat16", name
    return ("float16" if capability >= (7, 0) else "float32"), f"{name}: no bfloat16"
