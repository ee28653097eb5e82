"""The doctor: what a bug report has to say of an installation, and what is wrong with it.

Read `checkup` (sections of facts, their text and JSON), then the sections: `software` (versions), `computer` (system,
CPU, threads, memory), `engine` (cache, executable memory, speed, self-test). `fingerprints` holds what the self-test
compares. Nothing is imported before a section needs it, so that a broken package is a line of the report.
"""
