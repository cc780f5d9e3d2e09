//! The program, run by the kernel over hand-made frames (`BPF_PROG_TEST_RUN`), without any interface.
