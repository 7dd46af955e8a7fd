"""Two chat models for MLX's tests and benchmarks, made here: a tiny one of chance, and a real one."""
