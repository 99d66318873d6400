// Virtio devices by their legacy interface (virtio 1.0, 4.1.5), polled: no interrupt is asked for.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MaxQueues = 6 };

struct Descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags, next;
};

struct Queue {
    struct Descriptor* descriptors;
    volatile uint16_t* available;  // flags, index, ring
    volatile uint16_t* used;       // flags, index, ring of {id, length}
    uint16_t io, size, number;
    uint16_t seen;  // Of the used ring.
};

struct Device {
    uint16_t io;
    struct Queue queues[MaxQueues];
};

// A piece of memory that goes with a request.
struct Part {
    const void* data;
    uint32_t length;
    bool isForDevice;  // It reads it; else it writes it.
};

// Finds the first device with that PCI id (device and vendor), and brings it up with `queues` queues at the memory `rings`, which
// is zeroed, of RingBytes for each, and aligned to RingAlignment. False when there is none.
enum { RingBytes = 16384, RingAlignment = 4096 };
bool openDevice(struct Device* device, uint32_t id, uint32_t features, uint16_t queues, void* rings);

// How many requests the device has not answered.
uint16_t underWay(const struct Queue* queue);
// One request; there must be room for it: parts are `count` descriptors at the place of the first, modulo the queue's size.
void put(struct Queue* queue, const struct Part* parts, unsigned count);
// The first descriptor's number of one that was answered, or -1.
int nextAnswered(struct Queue* queue);
// Gives a descriptor that was answered to the device once more.
void offer(struct Queue* queue, uint16_t descriptor);
