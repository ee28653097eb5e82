"""Checkpoints of torch.save, without torch and without executing pickle.

`zip_file` and `legacy_file` read the two formats: each finds the pickle that describes the saved object, and the
numbers of its storages. Read `pickle_data` (the machine that interprets the pickle) and `pickle_objects` (what becomes
of classes and tensors), then `state_dict` (which part of the object holds the weights) and `tensors` (numbers to
arrays).
"""
