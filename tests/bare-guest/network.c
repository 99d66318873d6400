#include "tests/bare-guest/network.h"

#include <stddef.h>

#include "tests/bare-guest/machine.h"
#include "tests/bare-guest/virtio.h"

enum {
    NetworkDevice = 0x10001af4,
    Configuration = 20,  // The card's own address (5.1.4), behind the legacy registers.
    HasAddress = 1 << 5,
    Receive = 0,
    Send = 1,
    DeviceHeaderBytes = 10,  // Before each frame (5.1.6.1); all 0: no checksum is left to be filled in.
    MaxFrame = 1514,
    Frames = 16,
    AddressBytes = 6,
    ArpKind = 0x0806,
    IpKind = 0x0800,
    ArpRequest = 1,
    ArpReply = 2,
    Icmp = 1,
    EchoRequest = 8,
};

// On the wire numbers have their greatest byte first.
typedef uint8_t Short[2], Long[4], CardAddress[AddressBytes];

struct Frame {
    uint8_t deviceHeader[DeviceHeaderBytes];
    CardAddress to, from;
    Short kind;
    union {
        struct {
            uint8_t formats[6];
            Short operation;
            CardAddress sender;
            Long senderIp;
            CardAddress target;
            Long targetIp;
        } arp;
        struct {
            uint8_t version;
            uint8_t service;
            Short bytes;
            uint8_t rest[5];
            uint8_t protocol;
            Short checksum;
            Long from, to;
            // Without options before it, which pings have not.
            uint8_t icmpType, icmpCode;
            Short icmpChecksum;
        } ip;
        uint8_t payload[MaxFrame - 14];
    };
};

static uint8_t networkRings[2][RingBytes] __attribute__((aligned(RingAlignment)));
static struct Frame received[Frames], sent[Frames];
static unsigned sentCount;
static struct Device device;
static CardAddress ownCard;
static Long ownIp;

static uint32_t shortIn(const uint8_t* bytes) {
    return (uint32_t)(bytes[0] << 8 | bytes[1]);
}

static void setShort(uint8_t* bytes, uint32_t value) {
    bytes[0] = (uint8_t)(value >> 8);
    bytes[1] = (uint8_t)value;
}

static bool isOurs(const uint8_t* ip) {
    for (int i = 0; i < 4; ++i)
        if (ip[i] != ownIp[i]) return false;
    return true;
}

static void copy(uint8_t* to, const uint8_t* from, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) to[i] = from[i];
}

// The bytes of the frame that answers, which is made of what came; 0 for none.
static uint32_t makeAnswer(struct Frame* frame) {
    uint32_t bytes = 0;
    if (shortIn(frame->kind) == ArpKind) {
        if (shortIn(frame->arp.operation) != ArpRequest || !isOurs(frame->arp.targetIp)) return 0;
        setShort(frame->arp.operation, ArpReply);
        copy(frame->arp.target, frame->arp.sender, AddressBytes + sizeof(Long));
        copy(frame->arp.sender, ownCard, AddressBytes);
        copy(frame->arp.senderIp, ownIp, sizeof(Long));
        bytes = offsetof(struct Frame, payload) - DeviceHeaderBytes + sizeof frame->arp;
    } else if (shortIn(frame->kind) == IpKind) {
        bytes = 14 + shortIn(frame->ip.bytes);
        if (frame->ip.version != 0x45 || frame->ip.protocol != Icmp || frame->ip.icmpType != EchoRequest ||
            !isOurs(frame->ip.to) || bytes > MaxFrame)
            return 0;
        copy(frame->ip.to, frame->ip.from, sizeof(Long));
        copy(frame->ip.from, ownIp, sizeof(Long));
        frame->ip.icmpType = 0;
        // Of ones' complement, and what was summed up is less by the type's 8.
        const uint32_t checksum = shortIn(frame->ip.icmpChecksum) + (EchoRequest << 8);
        setShort(frame->ip.icmpChecksum, checksum + (checksum >> 16));
    } else {
        return 0;
    }
    copy(frame->to, frame->from, AddressBytes);
    copy(frame->from, ownCard, AddressBytes);
    return bytes;
}

bool openNetwork(uint32_t address) {
    if (!openDevice(&device, NetworkDevice, HasAddress, 2, networkRings)) return false;
    for (int i = 0; i < AddressBytes; ++i) ownCard[i] = inb((uint16_t)(device.io + Configuration + i));
    setShort(ownIp, address >> 16);
    setShort(ownIp + 2, address);
    for (int i = 0; i < Frames; ++i) put(&device.queues[Receive], &(struct Part){&received[i], sizeof received[i], false}, 1);
    return true;
}

void answerNetwork(void) {
    struct Queue* receive = &device.queues[Receive];
    if (receive->size == 0) return;
    for (int id; (id = nextAnswered(receive)) >= 0; offer(receive, (uint16_t)id)) {
        if (underWay(&device.queues[Send]) >= Frames) continue;
        struct Frame* answer = &sent[sentCount % Frames];
        *answer = *(const struct Frame*)receive->descriptors[(unsigned)id % receive->size].address;
        for (int i = 0; i < DeviceHeaderBytes; ++i) answer->deviceHeader[i] = 0;
        const uint32_t bytes = makeAnswer(answer);
        if (bytes == 0) continue;
        ++sentCount;
        put(&device.queues[Send], &(struct Part){answer, DeviceHeaderBytes + bytes, true}, 1);
    }
}
