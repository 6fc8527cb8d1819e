"""How results are computed: in which precision, on how many threads, from which generator."""
