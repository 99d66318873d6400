// The machine as a program without an operating system finds it: ports, CMOS, fw_cfg, PCI, the time stamp counter.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline void outb(uint16_t port, uint8_t value) {
    __asm__ volatile("outb %0,%1" ::"a"(value), "Nd"(port) : "memory");
}
static inline void outw(uint16_t port, uint16_t value) {
    __asm__ volatile("outw %0,%1" ::"a"(value), "Nd"(port) : "memory");
}
static inline void outl(uint16_t port, uint32_t value) {
    __asm__ volatile("outl %0,%1" ::"a"(value), "Nd"(port) : "memory");
}
static inline uint8_t inb(uint16_t port) {
    uint8_t value;
    __asm__ volatile("inb %1,%0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}
static inline uint16_t inw(uint16_t port) {
    uint16_t value;
    __asm__ volatile("inw %1,%0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}
static inline uint32_t inl(uint16_t port) {
    uint32_t value;
    __asm__ volatile("inl %1,%0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}
static inline uint64_t readTsc(void) {
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}
static inline void writeMsr(uint32_t msr, uint64_t value) {
    __asm__ volatile("wrmsr" ::"c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)) : "memory");
}
static inline void askCpuid(uint32_t leaf, uint32_t* a, uint32_t* b, uint32_t* c, uint32_t* d) {
    __asm__ volatile("cpuid" : "=a"(*a), "=b"(*b), "=c"(*c), "=d"(*d) : "a"(leaf), "c"(0));
}
// What the host reads or writes behind the compiler's back comes before and after this. One kind of memory access cannot overtake
// another of its kind on x86, so the processor needs no word for it.
#define compilerBarrier() __asm__ volatile("" ::: "memory")

static inline uint8_t readCmos(uint8_t number) {
    outb(0x70, number);
    return inb(0x71);
}

// An item of fw_cfg (QEMU, docs/specs/fw_cfg.rst), byte by byte: DMA would be quicker, and needs more of us.
static inline void readFirmwareItem(uint16_t key, void* to, size_t bytes) {
    outw(0x510, key);
    for (size_t i = 0; i < bytes; ++i) ((uint8_t*)to)[i] = inb(0x511);
}

static inline uint32_t readPci(uint32_t device, uint32_t offset) {
    outl(0xcf8, 0x80000000 | device << 11 | offset);
    return inl(0xcfc);
}
static inline void writePci(uint32_t device, uint32_t offset, uint32_t value) {
    outl(0xcf8, 0x80000000 | device << 11 | offset);
    outl(0xcfc, value);
}

static volatile uint32_t* const localApic = (volatile uint32_t*)0xfee00000ul;
