"""mlx-lm's own server, with the same OpenBLAS in front: `python -m benchmarks.mlx_server --model FOLDER`."""

from benchmarks import openblas

if __name__ == "__main__":
    openblas.put_in_front()
    from mlx_lm.server import main

    main()
