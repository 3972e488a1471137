"""What is wrong with a network, in plain words: evidence, rules, a prediction, and the autopsy of a training."""
