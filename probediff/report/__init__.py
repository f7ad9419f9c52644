"""Tables, figures and one page made from the records of runs."""
