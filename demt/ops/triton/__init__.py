"""GPU kernels of `demt.ops.deform_mix`; imported only where Triton is installed and chosen (see `best_path`)."""
