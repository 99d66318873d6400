#include "tests/bare-guest/disk.h"

#include "tests/bare-guest/machine.h"
#include "tests/bare-guest/virtio.h"

enum {
    BlockDevice = 0x10011af4,
    Configuration = 20,  // Capacity in sectors (5.2.4), behind the legacy registers.
    Read = 0,
    Write = 1,
    Ok = 0,
    SectorBytes = 512,
    BlockBytes = 64 * 1024,
    BlockWords = BlockBytes / 8,
    MaxBlocks = 512,
    BeatsPerBlock = 50,
};

struct DiskCounts diskCounts;

static uint8_t diskRings[1][RingBytes] __attribute__((aligned(RingAlignment)));
static struct Device device;
static struct {
    uint32_t type, reserved;
    uint64_t sector;
} header;
static volatile uint8_t answer;
static uint64_t buffer[BlockWords] __attribute__((aligned(4096)));
static uint32_t generations[MaxBlocks];
static uint64_t blocks, round_, beats;
static enum { Idle, Writing, Reading, ReadingOlder } step;
static uint64_t current;

// Every 64th word: what a handover can damage is sectors.
enum { WordsApart = SectorBytes / 8 };

static uint64_t word(uint64_t block, uint64_t generation, uint64_t at) {
    return (block * 0x9e3779b97f4a7c15ul ^ generation << 40) + at * 0xbf58476d1ce4e5b9ul;
}

static void begin(uint32_t type, uint64_t block) {
    current = block;
    header.type = type;
    header.sector = block * (BlockBytes / SectorBytes);
    answer = 0xff;
    put(&device.queues[0],
        (struct Part[]){{&header, sizeof header, true}, {buffer, BlockBytes, type == Write}, {(const void*)&answer, 1, false}},
        3);
}

bool openDisk(void) {
    if (!openDevice(&device, BlockDevice, 0, 1, diskRings)) return false;
    const uint64_t sectors = inl(device.io + Configuration) | (uint64_t)inl(device.io + Configuration + 4) << 32;
    blocks = sectors / (BlockBytes / SectorBytes);
    if (blocks > MaxBlocks) blocks = MaxBlocks;
    return blocks > 0;
}

static void check(void) {
    ++diskCounts.checked;
    for (uint64_t at = 0; at < BlockWords; at += WordsApart)
        if (buffer[at] != word(current, generations[current], at)) {
            ++diskCounts.mismatches;
            diskCounts.badBlock = current;
            generations[current] = 0;  // Counted once, not at each visit until it is written again.
            return;
        }
}

static void beginNext(void) {
    if (++beats % BeatsPerBlock != 0) return;
    const uint64_t block = round_ % blocks, generation = round_ / blocks + 1;
    for (uint64_t at = 0; at < BlockWords; at += WordsApart) buffer[at] = word(block, generation, at);
    generations[block] = (uint32_t)generation;
    step = Writing;
    begin(Write, block);
}

void exerciseDisk(void) {
    if (blocks == 0) return;
    if (step == Idle) return beginNext();
    if (nextAnswered(&device.queues[0]) < 0) return;
    if (answer != Ok) {
        ++diskCounts.ioErrors;
        ++diskCounts.mismatches;
        generations[current] = 0;
        step = Idle;
        return;
    }
    if (step == Writing) {
        step = Reading;
        return begin(Read, current);
    }
    check();
    // One written earlier: what was on the disk before a handover must still be there after it.
    const uint64_t older = round_ * 0x9e3779b97f4a7c15ul % blocks;
    const bool goesOn = step == Reading && older != current && generations[older] != 0;
    step = goesOn ? ReadingOlder : Idle;
    if (goesOn) return begin(Read, older);
    ++round_;
}
