#include "tests/bare-guest/virtio.h"

#include "tests/bare-guest/machine.h"

enum {
    // Registers, from the I/O BAR on.
    GuestFeatures = 4,
    QueueAddress = 8,
    QueueSize = 12,
    QueueSelect = 14,
    QueueNotify = 16,
    Status = 18,
    Acknowledge = 1,
    Driver = 2,
    DriverOk = 4,
    HasNext = 1,
    DeviceWrites = 2,
};

static void setUp(struct Queue* queue, uint16_t io, uint16_t number, void* ring) {
    outw(io + QueueSelect, number);
    queue->io = io;
    queue->number = number;
    queue->size = inw(io + QueueSize);
    queue->descriptors = (struct Descriptor*)ring;
    queue->available = (volatile uint16_t*)(queue->descriptors + queue->size);
    const uint64_t end = (uint64_t)(queue->available + 3 + queue->size);
    queue->used = (volatile uint16_t*)((end + RingAlignment - 1) / RingAlignment * RingAlignment);
    queue->available[0] = 1;  // No interrupts, please.
    outl(io + QueueAddress, (uint32_t)((uint64_t)ring / RingAlignment));
}

bool openDevice(struct Device* device, uint32_t id, uint32_t features, uint16_t queues, void* rings) {
    static uint16_t nextIo = 0xc000;
    uint32_t slot = 0;
    while (slot < 256 && readPci(slot, 0) != id) slot += 8;
    if (slot == 256) return false;
    uint32_t bar = readPci(slot, 0x10);
    if (!(bar & ~3u)) writePci(slot, 0x10, bar = nextIo | 1);  // No firmware has given it one.
    nextIo = (uint16_t)(nextIo + 0x100);
    const uint16_t io = device->io = (uint16_t)(bar & ~3u);
    writePci(slot, 4, 0x105);  // I/O, bus master
    outb(io + Status, 0);
    outb(io + Status, Acknowledge);
    outb(io + Status, Acknowledge | Driver);
    outl(io + GuestFeatures, features);
    for (uint16_t number = 0; number < queues; ++number)
        setUp(&device->queues[number], io, number, (uint8_t*)rings + number * RingBytes);
    outb(io + Status, Acknowledge | Driver | DriverOk);
    return true;
}

uint16_t underWay(const struct Queue* queue) {
    return (uint16_t)(queue->available[1] - queue->used[1]);
}

void offer(struct Queue* queue, uint16_t descriptor) {
    queue->available[2 + queue->available[1] % queue->size] = descriptor;
    compilerBarrier();
    queue->available[1] = (uint16_t)(queue->available[1] + 1);
    // The used ring's flags say whether the device wants to be told; they must not be read before the index is written.
    __asm__ volatile("lock addl $0,(%%rsp)" ::: "memory");
    if (!(queue->used[0] & 1)) outw(queue->io + QueueNotify, queue->number);
}

void put(struct Queue* queue, const struct Part* parts, unsigned count) {
    const unsigned first = queue->available[1] * count;
    for (unsigned i = 0; i < count; ++i) {
        const bool isLast = i + 1 == count;
        queue->descriptors[(first + i) % queue->size] =
            (struct Descriptor){(uint64_t)parts[i].data, parts[i].length,
                                (uint16_t)((isLast ? 0 : HasNext) | (parts[i].isForDevice ? 0 : DeviceWrites)),
                                (uint16_t)(isLast ? 0 : (first + i + 1) % queue->size)};
    }
    offer(queue, (uint16_t)(first % queue->size));
}

int nextAnswered(struct Queue* queue) {
    if (queue->used[1] == queue->seen) return -1;
    compilerBarrier();
    return (int)*(volatile uint32_t*)(queue->used + 2 + 4 * (queue->seen++ % queue->size));
}
