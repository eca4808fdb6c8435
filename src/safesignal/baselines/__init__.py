"""What the field would try first, measured as our model is: a linear probe on the untouched model, a list of words."""
