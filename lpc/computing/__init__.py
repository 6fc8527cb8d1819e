"""How results are computed: on which device, threads and precision, from which generator; what stops it."""
