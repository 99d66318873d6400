// The first virtio disk: blocks are written and read back, as tests/guest/probe.c does it with /dev/vda.
#pragma once

#include <stdbool.h>
#include <stdint.h>

// WARNING: its first 32 MiB are overwritten. False when there is no disk of at least 64 KiB.
bool openDisk(void);

// Goes on with what is under way, or begins with the next block; never waits. Called at each beat.
void exerciseDisk(void);

struct DiskCounts {
    uint64_t checked, mismatches, ioErrors;
    uint64_t badBlock;  // The latest that was not as it was left.
};
extern struct DiskCounts diskCounts;
