#include "tests/bare-guest/heartbeat_port.h"

#include "tests/bare-guest/machine.h"
#include "tests/bare-guest/virtio.h"

enum {
    SerialDevice = 0x10031af4,
    Multiport = 2,  // Feature: control messages, and more than one port.
    // Queues: of port 0, of control messages, of port 1.
    ControlReceive = 2,
    ControlSend = 3,
    PortSend = 5,
    // Control messages (5.3.6).
    DeviceReady = 0,
    PortReady = 3,
    PortOpen = 6,
    Port = 1,
    MaxMessages = 8,
    MessageBytes = 64,
    MaxLinesUnderWay = 64,
};

struct Message {
    uint32_t port;
    uint16_t event, value;
};

static uint8_t portRings[MaxQueues][RingBytes] __attribute__((aligned(RingAlignment)));
static uint8_t received[MaxMessages][MessageBytes];
static char lines[MaxLinesUnderWay][MaxLine];
static uint32_t linesSent;
static struct Device device;

static void control(uint32_t port, uint16_t event, uint16_t value) {
    static struct Message messages[MaxMessages];
    static unsigned count;
    struct Message* message = &messages[count++ % MaxMessages];
    *message = (struct Message){port, event, value};
    put(&device.queues[ControlSend], &(struct Part){message, sizeof *message, true}, 1);
}

bool openHeartbeatPort(void) {
    if (!openDevice(&device, SerialDevice, Multiport, MaxQueues, portRings)) return false;
    for (int i = 0; i < MaxMessages; ++i)
        put(&device.queues[ControlReceive], &(struct Part){received[i], MessageBytes, false}, 1);
    control(0, DeviceReady, 1);
    control(Port, PortReady, 1);
    control(Port, PortOpen, 1);
    return true;
}

// Whether somebody has the port open on the host. Lines that are written when nobody has can leave it silent for the next one who
// opens it (seen with QEMU 10.0 and 11.1, hw/char/virtio-console.c).
static bool isOpenOnHost(void) {
    static bool isOpen;
    struct Queue* queue = &device.queues[ControlReceive];
    for (int id; (id = nextAnswered(queue)) >= 0; offer(queue, (uint16_t)id)) {
        const struct Message* message = (const struct Message*)queue->descriptors[(unsigned)id % queue->size].address;
        if (message->port == Port && message->event == PortOpen) isOpen = message->value;
    }
    return isOpen;
}

bool sendLine(const char* line, size_t length) {
    struct Queue* queue = &device.queues[PortSend];
    if (queue->size == 0 || length > MaxLine || !isOpenOnHost()) return false;
    if (underWay(queue) >= MaxLinesUnderWay || underWay(queue) >= queue->size) return false;
    char* copy = lines[linesSent++ % MaxLinesUnderWay];
    for (size_t i = 0; i < length; ++i) copy[i] = line[i];
    put(queue, &(struct Part){copy, (uint32_t)length, true}, 1);
    return true;
}
