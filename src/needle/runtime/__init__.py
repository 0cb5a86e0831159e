"""What runs beside Python: memory, calls into kernels, threads, the cache of machine code."""
