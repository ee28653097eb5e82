"""Many images: from files, folders and archives, through decoding and the network, to rows in a file.

Read in this order: `items` (one image of a source), `sources` (arguments to items; `archives` reads shards and lists,
`remote` opens addresses), `pipeline` (items to rows), `rows` (what a row is), `journal` (the rows of a run that may be
interrupted), `sinks` (rows to a file) and `readers` (and back); `predictor` is the pipeline as a function of a batch.
"""
