package tracer

// The programs are compiled twice: for 5.15 and later, and for 5.10, whose verifier
// knows less; see OLD_KERNEL in bpf/kernel_compat.h.

//go:generate go tool bpf2go -cc clang-14 -strip llvm-strip-14 -target amd64,arm64 -type file_key -type file_entry -type counter_key -type counter -type layer -type loss_counts -type file_record -type file_record_short -type process_record -type executable_record -type executable_key -type covered_record -type process_id -type track_args -type settle_args -type untrack_args -type turn_args -type look_record -cflags "-O2 -g -Wall -Wextra -Werror -Wno-unused-parameter -Wno-sign-compare -mcpu=v3" ledger ../bpf/layertrace.bpf.c -- -I../bpf
//go:generate go tool bpf2go -no-global-types -cc clang-14 -strip llvm-strip-14 -target amd64,arm64 -cflags "-O2 -g -Wall -Wextra -Werror -Wno-unused-parameter -Wno-sign-compare -mcpu=v3 -DOLD_KERNEL" ledgerOld ../bpf/layertrace.bpf.c -- -I../bpf

// What only a linker or a reader of the verifier's log wants is half of them.
//go:generate go run ../internal/trim llvm-objcopy-14 ledger_x86_bpfel.o ledger_arm64_bpfel.o ledgerold_x86_bpfel.o ledgerold_arm64_bpfel.o
