"""The kernels: one room per operator, all its compiled and GPU forms side by side.

``common/`` holds what they share. The rooms hold ``cpu.cpp`` and ``cuda.cu``, which become
``fedsyn._C`` and ``libfedsyn_cuda``, and ``triton.py``; the operators in `fedsyn.ops` are their
only callers.
"""
