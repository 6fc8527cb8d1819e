"""How the packages offer their names, and say where moved ones are."""
