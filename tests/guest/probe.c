// The guest probe: the whole user space of the test guest, and the witness of what a handover did to it.
//
// It is /init of a small initramfs. It loads a guest with work that a handover could break, and reports on the virtio-serial
// port `org.virt-handover.heartbeat.0`:
//
//     B <seq>      a beat, every millisecond. Numbers have no gaps: a beat that could not be handed to the port (nobody listens
//                  on the host, or the queue is full) keeps its number for the next try and is counted as `unsent`. So a
//                  missing number on the host is a lost beat, and the time between two beats is the guest's pause.
//     S <key>=<value> ...   the status: ten times a second, when RAM has been filled, and after each of the first errors.
//     W <pages>    how many pages the writers have written since boot, every 10 ms; only with probe.write_mib.
//     E <what>     guest RAM or a disk is not as the probe left it, or disk I/O failed. The first 20 in full; all are counted in
//                  `mismatches`, and those of failed I/O in `io_errors`, too.
//
//     S seq=5012 ram_mib=382 ram_filled=1 ram_passes=3 ram_checked=293376 disk_checked=198 unsent=0 mismatches=0 uptime_ms=6120
//       nvme_checked=198 io_errors=0 io_max_ms=31 ios=612 irqs=640     (one line; these only with probe.disk)
//     E ram page 4711 offset 128 found 0x0 expected 0x1c64a2df88219e03
//     E written page 12 found 0x0 expected 0x8d0f2ab9b4a0c1d7
//     E disk block 12 offset 0 found 0x5858585858585858 expected 0x8d0f2ab9b4a0c1d7
//     E disk block 12 write: Input/output error
//     E nvme block 7 read: Input/output error
//
// Whoever connects in the middle may see the rest of a line that an earlier listener did not read: start after the first newline.
//
// The port is one way. The console gets `probe: ready`, every E line, and `probe: echo <text>` for each line typed there. The
// line `rebind` has the network card's driver let go of it and take it up again, with new interrupts; then comes `probe:
// rebound`. The ACPI power button powers the guest off; so does a fatal error, after a line on the console, because a panic of
// init would leave a VM that looks alive.
//
// On the kernel command line:
//     probe.beat_ms=N      from one beat to the next (1). Where a processor is emulated twice, beats alone can use most of it.
//     probe.ram_mib=N      RAM to fill and check; without it, what is available less 48 MiB. 0 for none.
//     probe.rate_mib_s=N   how fast RAM is checked and rewritten (64). 0 for as fast as it goes.
//     probe.write_mib=N    RAM besides that, of which every page is written again and again, as fast as it goes: a guest that
//                          works on its memory. What a new VMM has to map again shows in how fast that goes (0, for none). It
//                          is all there before the status says ram_filled=1, and it is never less: what does not fit is fatal.
//                          With more than one CPU, all but one write, each a part of it. What was written there the last time
//                          is looked at, too.
//     probe.disk_per_s=N   blocks of 64 KiB to write and check a second (20). 0 for none.
//     probe.disk=PATH      a disk to write and check besides /dev/vda, such as /dev/nvme0n1, in the same way and as often:
//                          `nvme_checked`. It is waited for, up to 10 s. `ios` counts what was asked of it, `irqs` the interrupts
//                          of NVMe queues (from /proc/interrupts, but for the administrative one), `io_max_ms` how long one
//                          request took at most.
//     probe.ip=A.B.C.D     the address of eth0, netmask /24; the kernel answers pings then. Without it, eth0 stays down.
//     probe.send=A.B.C.D/MAC[,...]  with probe.ip: whom to send UDP packets to, port 7777, each with its number (64 bits,
//     big-endian;
//                          from 1 on). By that MAC address and no other: a guest that only sends never hears of a new one. What
//                          comes to that port is counted: `udp_received` different numbers, `udp_repeated` numbers that had come
//                          before.
//     probe.send_per_s=N   how many a second, to each of them (1000). `udp_sent` is the last number.
// Of the kernel's own options two pay under TCG: clearcpuid=erms, with which filling 370 MiB takes 1.5 s instead of 5, and
// cryptomgr.notests, without which the kernel tests its ciphers for 0.8 of the 3.2 s that a boot takes.
//
// WARNING: /dev/vda, when there is one, and the disk of probe.disk are overwritten: their first 32 MiB are the disk test's.
//
// How the threads share: only the heartbeat thread writes to the port, so lines are never mixed or torn, and no lock can delay
// a beat. The others leave counters (atomics) and error lines (written once, then published by a release store).

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/fs.h>
#include <linux/input.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

// linux/module.h is not for user space on Debian 12, whose headers predate the flag's uapi copy.
#ifndef MODULE_INIT_COMPRESSED_FILE
#define MODULE_INIT_COMPRESSED_FILE 4
#endif

#define PORT_NAME "org.virt-handover.heartbeat.0"
#define DISK "/dev/vda"

enum {
    StatusMs = 100,
    BeatsPerWritten = 10,
    MaxErrors = 20,
    MaxLine = 512,
    PageBytes = 4096,
    PageWords = PageBytes / sizeof(uint64_t),
    RamReserveMib = 48,
    RamStepPages = 64,  // Between two sleeps: short enough to be steady, long enough that sleeping is not the work.
    BlockBytes = 64 * 1024,
    BlockWords = BlockBytes / sizeof(uint64_t),
    MaxDiskBytes = 32 * 1024 * 1024,
    MaxBlocks = MaxDiskBytes / BlockBytes,
    MaxInputs = 16,
    UdpPort = 7777,
    MaxReceivers = 4,
    MaxWriters = 16,
    MaxNumbers = 1 << 22,
};

static struct {
    uint64_t beatMs;
    uint64_t ramMib;
    bool ramMibGiven;
    const char* ip;
    const char* disk;
    uint64_t rateMibPerSecond;
    uint64_t writeMib;
    uint64_t diskPerSecond;
    char* send;
    uint64_t sendPerSecond;
} options = {.beatMs = 1, .rateMibPerSecond = 64, .diskPerSecond = 20, .sendPerSecond = 1000};

static struct {
    atomic_uint_least64_t ramMib, ramFilled, ramPasses, ramChecked, written, diskChecked, unsent, mismatches;
    atomic_uint_least64_t nvmeChecked, ioErrors, ioMaxMs, ios, irqs;  // With probe.disk.
    atomic_uint_least64_t udpSent, udpReceived, udpRepeated;          // With probe.send.
} counters;

static struct {
    pthread_mutex_t writers;  // Among reporting threads only; the heartbeat thread reads without it.
    char lines[MaxErrors][MaxLine];
    atomic_uint published;
} errors = {.writers = PTHREAD_MUTEX_INITIALIZER};

static atomic_bool statusWanted;  // Out of turn.

// ---------------------------------------------------------------------------------------------------------------- helpers

static __attribute__((format(printf, 1, 2))) void say(const char* format, ...) {
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    if (length > (int)sizeof line - 2) length = (int)sizeof line - 2;
    line[length++] = '\n';
    // One write: the console is shared by all threads. Nothing is left to try when it fails.
    ssize_t ignored = write(STDOUT_FILENO, line, (size_t)length);
    (void)ignored;
}

static _Noreturn void powerOff(void) {
    sync();
    tcdrain(STDOUT_FILENO);  // Else the last words are lost with the machine.
    reboot(RB_POWER_OFF);
    for (;;) pause();
}

#define fatal(...)                         \
    do {                                   \
        say("probe: fatal: " __VA_ARGS__); \
        powerOff();                        \
    } while (0)

static uint64_t nowNs(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void sleepUntilNs(uint64_t deadlineNs) {
    struct timespec deadline = {.tv_sec = (time_t)(deadlineNs / 1000000000u), .tv_nsec = (long)(deadlineNs % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &deadline, NULL) == EINTR) {
    }
}

static void sleepMs(unsigned ms) {
    sleepUntilNs(nowNs() + ms * UINT64_C(1000000));
}

// Sleeps until `periodNs` after the last call's deadline; when that has gone by (the guest was paused, or the host is
// busy) counts from now, for a burst of catching up would look like load that the guest never asked for.
static void pace(uint64_t* deadlineNs, uint64_t periodNs) {
    *deadlineNs += periodNs;
    uint64_t now = nowNs();
    if (*deadlineNs < now)
        *deadlineNs = now;
    else
        sleepUntilNs(*deadlineNs);
}

static void startThread(void* (*body)(void*), void* argument, const char* name, int fifoPriority) {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    if (fifoPriority > 0) {
        struct sched_param parameters = {.sched_priority = fifoPriority};
        pthread_attr_setinheritsched(&attributes, PTHREAD_EXPLICIT_SCHED);
        pthread_attr_setschedpolicy(&attributes, SCHED_FIFO);
        pthread_attr_setschedparam(&attributes, &parameters);
    }
    pthread_t thread;
    int error = pthread_create(&thread, &attributes, body, argument);
    if (error != 0) fatal("start the %s thread: %s", name, strerror(error));
    pthread_setname_np(thread, name);
    pthread_attr_destroy(&attributes);
}

// Reads a small file of /proc or /sys as text, without the newline at its end.
static bool readText(const char* path, char* text, size_t size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    ssize_t length = read(fd, text, size - 1);
    close(fd);
    if (length < 0) return false;
    text[length] = '\0';
    if (length > 0 && text[length - 1] == '\n') text[length - 1] = '\0';
    return true;
}

static __attribute__((format(printf, 1, 2))) void reportError(const char* format, ...) {
    pthread_mutex_lock(&errors.writers);
    unsigned count = atomic_load_explicit(&errors.published, memory_order_relaxed);
    if (count < MaxErrors) {
        char* line = errors.lines[count];
        int start = snprintf(line, MaxLine, "E ");
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(line + start, (size_t)(MaxLine - start - 1), format, arguments);
        va_end(arguments);
        say("%s", line);
        strcat(line, "\n");
        atomic_store_explicit(&errors.published, count + 1, memory_order_release);
    }
    atomic_fetch_add(&counters.mismatches, 1);
    // Past the first ones, once a second is enough: a zeroed RAM would else flood the port.
    if (count < MaxErrors) atomic_store(&statusWanted, true);
    pthread_mutex_unlock(&errors.writers);
}

// ---------------------------------------------------------------------------------------------------------------- pattern

// Word i of page or block `index` in generation `generation` is base + i * PatternStep. The base is a hash (splitmix64's
// finalizer), so that a page in the wrong place, an old page and a zeroed page all differ from what is expected.
static const uint64_t PatternStep = UINT64_C(0x9e3779b97f4a7c15);

static uint64_t patternBase(uint64_t index, uint64_t generation) {
    uint64_t z = index * PatternStep ^ (generation << 40);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static void fillPattern(uint64_t* words, size_t count, uint64_t base) {
    for (size_t i = 0; i < count; ++i, base += PatternStep) words[i] = base;
}

// The first word that is not the pattern's, or `count`.
static size_t findMismatch(const uint64_t* words, size_t count, uint64_t base) {
    for (size_t i = 0; i < count; ++i, base += PatternStep) {
        if (words[i] != base) return i;
    }
    return count;
}

// -------------------------------------------------------------------------------------------------------------- heartbeat

struct Port {
    int fd;
    char rest[MaxLine];  // What the port did not take of a line that it took a part of.
    size_t restLength;
    int lastErrno;
};

// Writes as much as goes at once. Nobody listening and a full queue are everyday; anything else is told on the console, once.
static size_t writeSome(struct Port* port, const char* text, size_t length) {
    ssize_t written = write(port->fd, text, length);
    if (written >= 0) return (size_t)written;
    if (errno != EAGAIN && errno != EINTR && errno != port->lastErrno) {
        say("probe: write to the heartbeat port: %s", strerror(errno));
        port->lastErrno = errno;
    }
    return 0;
}

// True when the port is ready for a new line.
static bool finishLine(struct Port* port) {
    if (port->restLength == 0) return true;
    size_t written = writeSome(port, port->rest, port->restLength);
    port->restLength -= written;
    memmove(port->rest, port->rest + written, port->restLength);
    return port->restLength == 0;
}

// Takes the whole line or nothing of it; when nothing, the caller tries again later with a line that is up to date then.
static bool sendLine(struct Port* port, const char* line, size_t length) {
    if (!finishLine(port)) return false;
    size_t written = writeSome(port, line, length);
    if (written == 0) return false;
    port->restLength = length - written;
    memcpy(port->rest, line + written, port->restLength);
    return true;
}

static bool sendStatus(struct Port* port, uint64_t sequence) {
    char line[MaxLine], more[MaxLine / 2] = "";
    if (options.disk != NULL) {
        snprintf(more, sizeof more,
                 " nvme_checked=%" PRIu64 " io_errors=%" PRIu64 " io_max_ms=%" PRIu64 " ios=%" PRIu64 " irqs=%" PRIu64,
                 atomic_load(&counters.nvmeChecked), atomic_load(&counters.ioErrors), atomic_load(&counters.ioMaxMs),
                 atomic_load(&counters.ios), atomic_load(&counters.irqs));
    }
    if (options.send != NULL) {
        size_t used = strlen(more);
        snprintf(more + used, sizeof more - used, " udp_sent=%" PRIu64 " udp_received=%" PRIu64 " udp_repeated=%" PRIu64,
                 atomic_load(&counters.udpSent), atomic_load(&counters.udpReceived), atomic_load(&counters.udpRepeated));
    }
    int length =
        snprintf(line, sizeof line,
                 "S seq=%" PRIu64 " ram_mib=%" PRIu64 " ram_filled=%" PRIu64 " ram_passes=%" PRIu64 " ram_checked=%" PRIu64
                 " disk_checked=%" PRIu64 " unsent=%" PRIu64 " mismatches=%" PRIu64 " uptime_ms=%" PRIu64 "%s\n",
                 sequence, atomic_load(&counters.ramMib), atomic_load(&counters.ramFilled), atomic_load(&counters.ramPasses),
                 atomic_load(&counters.ramChecked), atomic_load(&counters.diskChecked), atomic_load(&counters.unsent),
                 atomic_load(&counters.mismatches), nowNs() / 1000000u, more);
    return sendLine(port, line, (size_t)length);
}

static _Noreturn void* beat(void* argument) {
    struct Port* port = argument;
    uint64_t sequence = 0;  // Of the last beat sent.
    unsigned errorsSent = 0;
    uint64_t nextStatusMs = 0;
    unsigned beatsSinceWritten = 0;
    uint64_t deadline = nowNs();
    for (;;) {
        while (errorsSent < atomic_load_explicit(&errors.published, memory_order_acquire) &&
               sendLine(port, errors.lines[errorsSent], strlen(errors.lines[errorsSent]))) {
            ++errorsSent;
        }

        char line[32];
        int length = snprintf(line, sizeof line, "B %" PRIu64 "\n", sequence + 1);
        if (sendLine(port, line, (size_t)length))
            ++sequence;
        else
            atomic_fetch_add(&counters.unsent, 1);

        if (options.writeMib > 0 && ++beatsSinceWritten >= BeatsPerWritten) {
            length = snprintf(line, sizeof line, "W %" PRIu64 "\n", atomic_load(&counters.written));
            if (sendLine(port, line, (size_t)length)) beatsSinceWritten = 0;
        }

        // A status that cannot be sent stays due. The wish is taken back first: one that comes meanwhile is not lost.
        uint64_t nowMs = nowNs() / 1000000u;
        bool wanted = atomic_exchange(&statusWanted, false);
        if (wanted || nowMs >= nextStatusMs) {
            if (sendStatus(port, sequence))
                nextStatusMs = nowMs + StatusMs;
            else if (wanted)
                atomic_store(&statusWanted, true);
        }
        pace(&deadline, options.beatMs * UINT64_C(1000000));
    }
}

// Opens the port with our name. The kernel learns of ports from messages of the device, so they may come a little after boot.
static int openHeartbeatPort(void) {
    for (int attempt = 0; attempt < 200; ++attempt, sleepMs(10)) {
        DIR* ports = opendir("/sys/class/virtio-ports");
        if (ports == NULL) continue;
        for (struct dirent* entry; (entry = readdir(ports)) != NULL;) {
            char path[sizeof entry->d_name + 32], name[64];
            snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", entry->d_name);
            if (!readText(path, name, sizeof name) || strcmp(name, PORT_NAME) != 0) continue;
            snprintf(path, sizeof path, "/dev/%s", entry->d_name);
            int fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
            if (fd < 0) fatal("open '%s': %s", path, strerror(errno));
            closedir(ports);
            return fd;
        }
        closedir(ports);
    }
    return -1;
}

// -------------------------------------------------------------------------------------------------------------------- RAM

static uint64_t availableMib(void) {
    char text[512];
    if (!readText("/proc/meminfo", text, sizeof text)) fatal("read '/proc/meminfo': %s", strerror(errno));
    const char* line = strstr(text, "MemAvailable:");
    if (line == NULL) fatal("'/proc/meminfo' has no MemAvailable");
    return strtoull(line + strlen("MemAvailable:"), NULL, 10) / 1024;
}

static uint64_t ramToFillMib(void) {
    uint64_t available = availableMib();
    if (options.writeMib + RamReserveMib / 2 > available)
        fatal("probe.write_mib=%" PRIu64 ": only %" PRIu64 " MiB are available", options.writeMib, available);
    uint64_t reserved = options.writeMib + RamReserveMib;
    uint64_t most = available > reserved ? available - reserved : 0;
    if (!options.ramMibGiven) return most;
    if (options.ramMib <= most) return options.ramMib;
    say("probe: probe.ram_mib=%" PRIu64 " is more than there is; filling %" PRIu64, options.ramMib, most);
    return most;
}

// Few page faults rather than many: they are what filling costs under TCG. A kernel without huge pages ignores it.
static uint64_t* mapMib(uint64_t mib) {
    size_t bytes = mib * 1024 * 1024;
    uint64_t* area = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (area == MAP_FAILED) fatal("map %" PRIu64 " MiB: %s", mib, strerror(errno));
    madvise(area, bytes, MADV_HUGEPAGE);
    return area;
}

static uint64_t* _Atomic writtenArea;  // Once all of it is there.

static void prepareWrittenArea(void) {
    if (options.writeMib == 0) return;
    uint64_t* area = mapMib(options.writeMib);
    for (size_t page = 0; page < options.writeMib * 256; ++page) area[page * PageWords] = 0;
    atomic_store(&writtenArea, area);
}

static void* exerciseRam(void* argument) {
    (void)argument;
    uint64_t mib = ramToFillMib();
    prepareWrittenArea();
    if (mib == 0) {
        say("probe: no RAM to fill");
        atomic_store(&counters.ramFilled, 1);
        return NULL;
    }
    size_t pages = mib * 1024 * 1024 / PageBytes;
    uint64_t* ram = mapMib(mib);
    uint64_t startedNs = nowNs();
    for (size_t page = 0; page < pages; ++page) fillPattern(ram + page * PageWords, PageWords, patternBase(page, 1));
    atomic_store(&counters.ramMib, mib);
    atomic_store(&counters.ramFilled, 1);
    atomic_store(&statusWanted, true);
    say("probe: filled %" PRIu64 " MiB of RAM in %" PRIu64 " ms", mib, (nowNs() - startedNs) / 1000000u);

    uint64_t stepNs = 0;
    if (options.rateMibPerSecond > 0) {
        stepNs = UINT64_C(1000000000) * RamStepPages * PageBytes / (options.rateMibPerSecond * 1024 * 1024);
    }
    // Pages before the cursor are of generation + 1, those after it of generation: nothing else needs remembering.
    uint64_t deadline = nowNs();
    for (uint64_t generation = 1;; ++generation) {
        for (size_t page = 0; page < pages; ++page) {
            uint64_t* words = ram + page * PageWords;
            uint64_t base = patternBase(page, generation);
            size_t wrong = findMismatch(words, PageWords, base);
            if (wrong < PageWords) {
                reportError("ram page %zu offset %zu found 0x%" PRIx64 " expected 0x%" PRIx64, page, wrong * sizeof(uint64_t),
                            words[wrong], base + wrong * PatternStep);
            }
            fillPattern(words, PageWords, patternBase(page, generation + 1));
            atomic_fetch_add_explicit(&counters.ramChecked, 1, memory_order_relaxed);
            if (stepNs > 0 && page % RamStepPages == RamStepPages - 1) pace(&deadline, stepNs);
        }
        atomic_fetch_add(&counters.ramPasses, 1);
    }
}

// One CPU is left to the heartbeat and to all else, where there are more.
static size_t writers(void) {
    const int cpus = get_nprocs();
    return cpus < 2 ? 1 : cpus > MaxWriters ? MaxWriters : (size_t)cpus - 1;
}

// A line of 64 bytes in each page, and another one each time: what counts is that every page is reached, not how many bytes go
// into it. Before it is written, the line of the last time is looked at.
static void* writeMemory(void* argument) {
    enum { LineWords = 64 / sizeof(uint64_t), LinesPerPage = PageWords / LineWords, PagesPerCount = 64 };
    const size_t number = (size_t)argument, all = options.writeMib * 256;
    const size_t first = all * number / writers(), end = all * (number + 1) / writers();
    uint64_t* area;
    while ((area = atomic_load(&writtenArea)) == NULL) sleepMs(10);
    for (uint64_t generation = 1;; ++generation) {
        for (size_t page = first; page < end; ++page) {
            uint64_t* words = area + page * PageWords;
            const uint64_t found = words[(generation - 1) % LinesPerPage * LineWords];
            const uint64_t expected = generation > 1 ? patternBase(page, generation - 1) : 0;
            if (found != expected) reportError("written page %zu found 0x%" PRIx64 " expected 0x%" PRIx64, page, found, expected);
            fillPattern(words + generation % LinesPerPage * LineWords, LineWords, patternBase(page, generation));
            if (page % PagesPerCount == PagesPerCount - 1)
                atomic_fetch_add_explicit(&counters.written, PagesPerCount, memory_order_relaxed);
        }
    }
    return NULL;
}

// ------------------------------------------------------------------------------------------------------------------- disk

struct Disk {
    const char* path;
    const char* name;  // In error lines.
    atomic_uint_least64_t* checked;
    bool passedThrough;  // Its requests are counted and timed.
    int fd;
    uint64_t* buffer;
    uint64_t generations[MaxBlocks];  // What each block holds; 0 when not known.
};

static void reportIo(const struct Disk* disk, unsigned block, const char* what, ssize_t length) {
    atomic_fetch_add(&counters.ioErrors, 1);
    reportError("%s block %u %s: %s", disk->name, block, what, length < 0 ? strerror(errno) : "too short");
}

static void countRequest(const struct Disk* disk, uint64_t startedNs) {
    if (!disk->passedThrough) return;
    atomic_fetch_add(&counters.ios, 1);
    uint64_t ms = (nowNs() - startedNs) / 1000000u;
    if (ms > atomic_load(&counters.ioMaxMs)) atomic_store(&counters.ioMaxMs, ms);  // One thread writes it.
}

// False when the block does not hold its pattern.
static bool checkBlock(const struct Disk* disk, unsigned block, uint64_t generation) {
    uint64_t* buffer = disk->buffer;
    memset(buffer, 0, BlockBytes);  // A read that transfers nothing must not find the right answer in the buffer.
    uint64_t startedNs = nowNs();
    ssize_t length = pread(disk->fd, buffer, BlockBytes, (off_t)block * BlockBytes);
    if (length != BlockBytes) {
        reportIo(disk, block, "read", length);
        return false;
    }
    countRequest(disk, startedNs);
    uint64_t base = patternBase(block, generation);
    size_t wrong = findMismatch(buffer, BlockWords, base);
    if (wrong < BlockWords) {
        reportError("%s block %u offset %zu found 0x%" PRIx64 " expected 0x%" PRIx64, disk->name, block, wrong * sizeof(uint64_t),
                    buffer[wrong], base + wrong * PatternStep);
    }
    atomic_fetch_add(disk->checked, 1);
    return wrong == BlockWords;
}

static bool writeBlock(const struct Disk* disk, unsigned block, uint64_t generation) {
    fillPattern(disk->buffer, BlockWords, patternBase(block, generation));
    uint64_t startedNs = nowNs();
    ssize_t length = pwrite(disk->fd, disk->buffer, BlockBytes, (off_t)block * BlockBytes);
    if (length != BlockBytes) {
        reportIo(disk, block, "write", length);
        return false;
    }
    countRequest(disk, startedNs);
    if (fdatasync(disk->fd) != 0) {
        reportIo(disk, block, "flush", -1);
        return false;
    }
    return true;
}

static void* exerciseDisk(void* argument) {
    struct Disk* disk = argument;
    // O_DIRECT, which wants the buffer aligned: from the guest's page cache any disk looks intact.
    disk->buffer = aligned_alloc(PageBytes, BlockBytes);
    disk->fd = open(disk->path, O_RDWR | O_DIRECT | O_CLOEXEC);
    // A real disk takes its time to be found.
    for (int attempt = 0; disk->passedThrough && disk->fd < 0 && attempt < 1000; ++attempt) {
        sleepMs(10);
        disk->fd = open(disk->path, O_RDWR | O_DIRECT | O_CLOEXEC);
    }
    uint64_t bytes = 0;
    if (disk->buffer == NULL || disk->fd < 0 || ioctl(disk->fd, BLKGETSIZE64, &bytes) != 0) {
        if (disk->passedThrough)
            reportIo(disk, 0, "open", -1);  // It was asked for.
        else
            say("probe: '%s' is left alone: %s", disk->path, strerror(errno));
        return NULL;
    }
    unsigned blocks = (unsigned)((bytes < MaxDiskBytes ? bytes : MaxDiskBytes) / BlockBytes);
    if (blocks == 0) {
        say("probe: '%s' is left alone: it is smaller than %d bytes", disk->path, BlockBytes);
        return NULL;
    }
    uint64_t deadline = nowNs();
    for (uint64_t round = 0;; ++round) {
        unsigned block = (unsigned)(round % blocks);
        uint64_t generation = round / blocks + 1;
        bool good = writeBlock(disk, block, generation) && checkBlock(disk, block, generation);
        disk->generations[block] = good ? generation : 0;
        // One written earlier: what was on the disk before a handover must still be there after it.
        unsigned older = (unsigned)(patternBase(round, 0) % blocks);
        if (older != block && disk->generations[older] != 0 && !checkBlock(disk, older, disk->generations[older])) {
            disk->generations[older] = 0;  // Reported once, not at each visit until it is written again.
        }
        pace(&deadline, UINT64_C(1000000000) / options.diskPerSecond);
    }
}

// Interrupts of the queues nvme0q1, nvme0q2, ... of all CPUs; nvme0q0 is the administrative one.
static uint64_t nvmeInterrupts(void) {
    uint64_t sum = 0;
    char line[1024];
    FILE* interrupts = fopen("/proc/interrupts", "re");
    if (interrupts == NULL) return 0;
    while (fgets(line, sizeof line, interrupts) != NULL) {
        const char* queue = strstr(line, "nvme0q");
        char* word = strchr(line, ':');
        if (queue == NULL || word == NULL || queue[strlen("nvme0q")] == '0') continue;
        ++word;
        for (char* end;; word = end) {
            uint64_t count = strtoull(word, &end, 10);
            if (end == word) break;
            sum += count;
        }
    }
    fclose(interrupts);
    return sum;
}

static void* countInterrupts(void* argument) {
    (void)argument;
    for (;; sleepMs(StatusMs / 2)) atomic_store(&counters.irqs, nvmeInterrupts());
    return NULL;
}

// -------------------------------------------------------------------------------------------------- console, power button

static void configureNetwork(const char* ip) {
    struct ifreq request = {.ifr_name = "eth0"};
    struct sockaddr_in address = {.sin_family = AF_INET};
    int control = socket(AF_INET, SOCK_DGRAM, 0);
    if (control < 0 || inet_pton(AF_INET, ip, &address.sin_addr) != 1)
        fatal("kernel command line: probe.ip: found '%s', expected an IPv4 address", ip);
    memcpy(&request.ifr_addr, &address, sizeof address);
    if (ioctl(control, SIOCSIFADDR, &request) != 0) fatal("set the address of eth0: %s", strerror(errno));
    address.sin_addr.s_addr = htonl(0xffffff00);
    memcpy(&request.ifr_netmask, &address, sizeof address);
    if (ioctl(control, SIOCSIFNETMASK, &request) != 0) fatal("set the netmask of eth0: %s", strerror(errno));
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    if (ioctl(control, SIOCSIFFLAGS, &request) != 0) fatal("bring up eth0: %s", strerror(errno));
    close(control);
}

static struct {
    int socket, count;
    struct sockaddr_in to[MaxReceivers];
} udp;

static void prepareUdp(void) {
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(UdpPort)};
    udp.socket = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int bytes = 16 * 1024 * 1024;  // What comes at once after a pause must not be lost here.
    setsockopt(udp.socket, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes);
    if (bind(udp.socket, (struct sockaddr*)&own, sizeof own) != 0) fatal("bind to UDP port %d: %s", UdpPort, strerror(errno));
    char* state;
    for (char* word = strtok_r(options.send, ",", &state); word != NULL; word = strtok_r(NULL, ",", &state)) {
        struct arpreq fixed = {.arp_flags = ATF_PERM | ATF_COM, .arp_dev = "eth0"};
        struct sockaddr_in* to = &udp.to[udp.count];
        unsigned char* mac = (unsigned char*)fixed.arp_ha.sa_data;
        char* slash = strchr(word, '/');
        if (slash != NULL) *slash = '\0';
        *to = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(UdpPort)};
        if (slash == NULL || udp.count == MaxReceivers || inet_pton(AF_INET, word, &to->sin_addr) != 1 ||
            sscanf(slash + 1, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", mac, mac + 1, mac + 2, mac + 3, mac + 4, mac + 5) != 6)
            fatal("kernel command line: probe.send: expected A.B.C.D/MAC, %d at most", MaxReceivers);
        fixed.arp_ha.sa_family = ARPHRD_ETHER;
        memcpy(&fixed.arp_pa, to, sizeof *to);
        if (ioctl(udp.socket, SIOCSARP, &fixed) != 0) fatal("set the MAC address of '%s': %s", word, strerror(errno));
        ++udp.count;
    }
}

static void* sendUdp(void* argument) {
    (void)argument;
    uint64_t deadline = nowNs();
    for (uint64_t number = 1;; ++number) {
        uint64_t packet = htobe64(number);
        for (int i = 0; i < udp.count; ++i) {
            // It is blocking: a full queue is waited for, and not lost.
            if (sendto(udp.socket, &packet, sizeof packet, 0, (struct sockaddr*)&udp.to[i], sizeof udp.to[i]) < 0) {
                reportError("send a packet: %s", strerror(errno));
            }
        }
        atomic_store(&counters.udpSent, number);
        pace(&deadline, UINT64_C(1000000000) / options.sendPerSecond);
    }
    return NULL;
}

static void* receiveUdp(void* argument) {
    (void)argument;
    static uint64_t seen[MaxNumbers / 64];
    uint64_t packet;
    for (;;) {
        if (recv(udp.socket, &packet, sizeof packet, 0) != (ssize_t)sizeof packet) continue;
        uint64_t number = be64toh(packet) % MaxNumbers, bit = UINT64_C(1) << number % 64;
        atomic_fetch_add(seen[number / 64] & bit ? &counters.udpRepeated : &counters.udpReceived, 1);
        seen[number / 64] |= bit;
    }
    return NULL;
}

static void writeText(const char* path, const char* text) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text, strlen(text)) < 0) say("probe: write '%s' to '%s': %s", text, path, strerror(errno));
    if (fd >= 0) close(fd);
}

static void rebindNetwork(void) {
    DIR* devices = opendir("/sys/bus/pci/devices");
    if (devices == NULL) return;
    for (struct dirent* entry; (entry = readdir(devices)) != NULL;) {
        char path[sizeof entry->d_name + 64], class[16], driver[PATH_MAX];
        snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/class", entry->d_name);
        if (!readText(path, class, sizeof class) || strncmp(class, "0x02", 4) != 0) continue;
        snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/driver", entry->d_name);
        if (realpath(path, driver) == NULL || strlen(driver) > sizeof driver - 8) continue;
        char* end = driver + strlen(driver);
        strcpy(end, "/unbind");
        writeText(driver, entry->d_name);
        strcpy(end, "/bind");
        writeText(driver, entry->d_name);
    }
    closedir(devices);
    for (int attempt = 0; attempt < 500 && access("/sys/class/net/eth0", F_OK) != 0; ++attempt) sleepMs(10);
    if (options.ip != NULL) configureNetwork(options.ip);
    say("probe: rebound");
}

// For whoever hears no heartbeat: whether this program and its clock go on, and what interrupts it.
static void sayStatus(void) {
    char source[32] = "", device[32] = "", line[256];
    readText("/sys/devices/system/clocksource/clocksource0/current_clocksource", source, sizeof source);
    readText("/sys/devices/system/clockevents/clockevent0/current_device", device, sizeof device);
    say("probe: at %" PRIu64 " ms by %s, woken by %s: %" PRIu64 " beats not sent, %" PRIu64 " pages checked", nowNs() / 1000000u,
        source, device, atomic_load(&counters.unsent), atomic_load(&counters.ramChecked));
    FILE* interrupts = fopen("/proc/interrupts", "re");
    if (interrupts == NULL) return;
    while (fgets(line, sizeof line, interrupts) != NULL) {
        const char* colon = strchr(line, ':');
        if (colon != NULL && strtoull(colon + 1, NULL, 10) > 0) say("probe: interrupts %.100s", line);
    }
    fclose(interrupts);
}

static void* echoConsole(void* argument) {
    (void)argument;
    char line[256];
    while (fgets(line, sizeof line, stdin) != NULL) {
        line[strcspn(line, "\r\n")] = '\0';
        if (strcmp(line, "rebind") == 0)
            rebindNetwork();
        else if (strcmp(line, "status") == 0)
            sayStatus();
        else
            say("probe: echo %s", line);
    }
    return NULL;
}

static void* watchPowerButton(void* argument) {
    (void)argument;
    struct pollfd inputs[MaxInputs];
    nfds_t count = 0;
    for (int i = 0; i < MaxInputs; ++i) {
        char path[32];
        snprintf(path, sizeof path, "/dev/input/event%d", i);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd >= 0) inputs[count++] = (struct pollfd){.fd = fd, .events = POLLIN};
    }
    if (count == 0) {
        say("probe: no input device: the power button will not be noticed");
        return NULL;
    }
    while (poll(inputs, count, -1) >= 0 || errno == EINTR) {
        for (nfds_t i = 0; i < count; ++i) {
            struct input_event event;
            if ((inputs[i].revents & POLLIN) == 0 || read(inputs[i].fd, &event, sizeof event) != (ssize_t)sizeof event) continue;
            if (event.type == EV_KEY && event.code == KEY_POWER && event.value == 1) {
                say("probe: power button");
                powerOff();
            }
        }
    }
    return NULL;
}

// ------------------------------------------------------------------------------------------------------------------- boot

static void mountAt(const char* type, const char* where) {
    mkdir(where, 0755);
    // EBUSY: a kernel with CONFIG_DEVTMPFS_MOUNT has done it.
    if (mount(type, where, type, 0, NULL) != 0 && errno != EBUSY) fatal("mount '%s': %s", where, strerror(errno));
}

static void openConsole(void) {
    int fd = open("/dev/console", O_RDWR);
    if (fd < 0) return;  // What the kernel opened for init is then all there is.
    for (int standard = 0; standard <= 2; ++standard) dup2(fd, standard);
    if (fd > 2) close(fd);
}

static void loadModules(void) {
    FILE* order = fopen("/modules/order", "re");
    if (order == NULL) fatal("open '/modules/order': %s", strerror(errno));
    char name[128];
    while (fgets(name, sizeof name, order) != NULL) {
        name[strcspn(name, "\n")] = '\0';
        char path[sizeof name + 16];
        snprintf(path, sizeof path, "/modules/%s", name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0) fatal("open '%s': %s", path, strerror(errno));
        int flags = strstr(name, ".ko.") != NULL ? MODULE_INIT_COMPRESSED_FILE : 0;
        if (syscall(SYS_finit_module, fd, "", flags) != 0 && errno != EEXIST) fatal("load '%s': %s", path, strerror(errno));
        close(fd);
    }
    fclose(order);
}

static uint64_t parseNumber(const char* option, const char* text) {
    char* end;
    errno = 0;
    uint64_t number = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || errno != 0 || number > UINT32_MAX) {
        fatal("kernel command line: %s: found '%s', expected a number", option, text);
    }
    return number;
}

static void readOptions(void) {
    static char commandLine[4096];
    if (!readText("/proc/cmdline", commandLine, sizeof commandLine)) fatal("read '/proc/cmdline': %s", strerror(errno));
    char* state;
    for (char* word = strtok_r(commandLine, " ", &state); word != NULL; word = strtok_r(NULL, " ", &state)) {
        if (strncmp(word, "probe.", strlen("probe.")) != 0) continue;
        char* value = strchr(word, '=');
        if (value == NULL) fatal("kernel command line: '%s' has no value", word);
        *value++ = '\0';
        if (strcmp(word, "probe.ip") == 0) {
            options.ip = value;
            continue;
        }
        if (strcmp(word, "probe.disk") == 0) {
            options.disk = value;
            continue;
        }
        if (strcmp(word, "probe.send") == 0) {
            options.send = value;
            continue;
        }
        uint64_t number = parseNumber(word, value);
        if (strcmp(word, "probe.beat_ms") == 0 && number > 0) {
            options.beatMs = number;
        } else if (strcmp(word, "probe.ram_mib") == 0) {
            options.ramMib = number;
            options.ramMibGiven = true;
        } else if (strcmp(word, "probe.rate_mib_s") == 0) {
            options.rateMibPerSecond = number;
        } else if (strcmp(word, "probe.write_mib") == 0) {
            options.writeMib = number;
        } else if (strcmp(word, "probe.disk_per_s") == 0) {
            options.diskPerSecond = number;
        } else if (strcmp(word, "probe.send_per_s") == 0 && number > 0) {
            options.sendPerSecond = number;
        } else {
            fatal("kernel command line: no such option: '%s'", word);
        }
    }
}

int main(void) {
    if (getpid() != 1) {
        fprintf(stderr, "probe: this is the init of a test guest and would power your machine off; see make-initramfs\n");
        return 1;
    }
    mountAt("devtmpfs", "/dev");
    mountAt("proc", "/proc");
    mountAt("sysfs", "/sys");
    openConsole();
    readOptions();
    loadModules();
    if (options.ip != NULL) configureNetwork(options.ip);

    static struct Port port;
    port.fd = openHeartbeatPort();
    if (port.fd >= 0)
        startThread(beat, &port, "heartbeat", 50);
    else
        say("probe: no virtio-serial port '" PORT_NAME "': running without a heartbeat");

    startThread(watchPowerButton, NULL, "power-button", 0);
    startThread(echoConsole, NULL, "console", 0);
    startThread(exerciseRam, NULL, "ram", 0);
    if (options.ip != NULL && options.send != NULL) {
        prepareUdp();
        startThread(sendUdp, NULL, "sender", 40);
        startThread(receiveUdp, NULL, "receiver", 40);
    }
    for (size_t i = 0; options.writeMib > 0 && i < writers(); ++i) startThread(writeMemory, (void*)i, "writer", 0);
    static struct Disk virtual = {.path = DISK, .name = "disk", .checked = &counters.diskChecked};
    static struct Disk passed = {.name = "nvme", .checked = &counters.nvmeChecked, .passedThrough = true};
    if (options.diskPerSecond > 0 && access(DISK, F_OK) == 0) startThread(exerciseDisk, &virtual, "disk", 0);
    if (options.diskPerSecond > 0 && options.disk != NULL) {
        passed.path = options.disk;
        startThread(exerciseDisk, &passed, "nvme", 0);
        startThread(countInterrupts, NULL, "interrupts", 0);
    }
    say("probe: ready");
    for (;;) pause();
}
