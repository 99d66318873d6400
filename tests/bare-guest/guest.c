// The bare guest: a witness like tests/guest/probe.c that needs no Linux, in some 10 KiB and a few milliseconds of start. It says
// the same on the same port, so that whoever listens to one understands the other:
//
//     B <seq>   a beat, every millisecond (or probe.beat_ms); without gaps, as probe.c's. The times below are for the former.
//     S ...     the status, twenty times a second, with probe.c's keys; `cpus` are those that run.
//     W <pages> how many pages the writers have written, every 10 ms; only with probe.write_mib.
//     T <tsc> <ns>   the time stamp counter and KVM's paravirtual clock (0 without one), every 10 ms.
//     E ram page ..., E written page ..., E disk block ...   what is not as it was left. The first 20; all are counted in
//                    `mismatches`.
//
// The console gets `probe: echo <text>` for each line typed there.
//
// With probe.ip it has that address on its first network card, and answers pings.
//
// On the kernel command line (QEMU's -append): probe.ram_mib, probe.rate_mib_s, probe.write_mib, probe.beat_ms and probe.ip, as
// for probe.c. With more than one CPU the others are the writers; else the first one writes while it has nothing else to do. All
// that is written is there before the first beat, and a working set that does not fit powers the guest off. What does not
// concern this guest (console=, probe.send=, ...) is passed over.
//
// Of each page the first and the last word are written and checked: what a handover can damage is pages.

#include "tests/bare-guest/disk.h"
#include "tests/bare-guest/heartbeat_port.h"
#include "tests/bare-guest/machine.h"
#include "tests/bare-guest/network.h"

enum {
    PageBytes = 4096,
    PageWords = PageBytes / 8,
    FirstPage = 16 * 1024 * 1024 / PageBytes,
    HighPage = 1024 * 1024,  // From 4 GiB on.
    BeatsPerWritten = 10,
    BeatsPerStatus = 50,
    MaxErrors = 20,
    MaxCpus = 8,  // entry.S's
    TrampolineAddress = 0x8000,
    TimerVector = 0x30,
    TicksPerMs = 62500,  // Of the local APIC, whose clock has 1 GHz in KVM and QEMU, divided by 16.
    FirmwareCpus = 0x05,
    FirmwareCommandLineSize = 0x14,
    FirmwareCommandLine = 0x15,
};

extern char timerEntry[], spuriousEntry[], faultEntry[], trampoline[], trampolineEnd[];
extern volatile uint32_t cpus;
volatile uint64_t ticks;

static struct {
    uint64_t ramMib, rateMibPerSecond, writeMib, beatMs;
    bool ramMibGiven;
    uint32_t address;  // IPv4; 0 for none.
} options = {.rateMibPerSecond = 64, .beatMs = 1};

// The other CPUs begin to write when there is an area.
static volatile uint64_t writePages;
static volatile struct {
    uint64_t pages, mismatches, badPage, rest[5];  // A cache line each.
} written[MaxCpus];

// ---------------------------------------------------------------------------------------------------------------------- text

struct Text {
    char line[MaxLine];
    size_t length;
};

static void add(struct Text* text, const char* more) {
    while (*more && text->length < MaxLine) text->line[text->length++] = *more++;
}

static void addNumber(struct Text* text, uint64_t number) {
    char digits[24];
    int count = 0;
    do digits[count++] = (char)('0' + number % 10);
    while (number /= 10);
    while (count && text->length < MaxLine) text->line[text->length++] = digits[--count];
}

static void addField(struct Text* text, const char* key, uint64_t value) {
    add(text, key);
    addNumber(text, value);
}

enum { SerialPort = 0x3f8, SerialStatus = SerialPort + 5 };

static void write(const struct Text* text) {
    for (size_t i = 0; i < text->length; ++i) outb(SerialPort, (uint8_t)text->line[i]);
}

static void say(const char* words, uint64_t number) {
    struct Text text = {.length = 0};
    add(&text, words);
    addNumber(&text, number);
    add(&text, "\r\n");
    write(&text);
}

// Says each line that is typed on the console, as probe.c does.
static void echoConsole(void) {
    static struct Text typed;
    while (inb(SerialStatus) & 1) {
        const char character = (char)inb(SerialPort);
        if (character != '\r' && character != '\n') {
            if (typed.length < MaxLine / 2) typed.line[typed.length++] = character;
            continue;
        }
        typed.line[typed.length] = '\0';
        struct Text text = {.length = 0};
        add(&text, "probe: echo ");
        add(&text, typed.line);
        add(&text, "\r\n");
        write(&text);
        typed.length = 0;
    }
}

// ------------------------------------------------------------------------------------------------------------------- options

static uint64_t numberIn(const char* text) {
    uint64_t number = 0;
    while (*text >= '0' && *text <= '9') number = number * 10 + (uint64_t)(*text++ - '0');
    return number;
}

// Of four numbers with points between them.
static uint32_t addressIn(const char* text) {
    uint32_t address = 0;
    for (int part = 0; part < 4; ++part) {
        address = address << 8 | (uint32_t)(numberIn(text) & 0xff);
        while (*text >= '0' && *text <= '9') ++text;
        if (*text == '.') ++text;
    }
    return address;
}

// What stands behind `key` in the command line, or null.
static const char* valueOf(const char* commandLine, const char* key) {
    for (const char* word = commandLine; *word;) {
        const char* at = word;
        const char* wanted = key;
        while (*wanted && *at == *wanted) ++at, ++wanted;
        if (!*wanted) return at;
        while (*word && *word != ' ') ++word;
        while (*word == ' ') ++word;
    }
    return NULL;
}

static void readOptions(void) {
    static char commandLine[2048];
    uint32_t size = 0;
    readFirmwareItem(FirmwareCommandLineSize, &size, sizeof size);
    if (size >= sizeof commandLine) size = sizeof commandLine - 1;
    readFirmwareItem(FirmwareCommandLine, commandLine, size);
    const char* value;
    if ((value = valueOf(commandLine, "probe.ram_mib="))) options.ramMib = numberIn(value), options.ramMibGiven = true;
    if ((value = valueOf(commandLine, "probe.rate_mib_s="))) options.rateMibPerSecond = numberIn(value);
    if ((value = valueOf(commandLine, "probe.write_mib="))) options.writeMib = numberIn(value);
    // More than ten seconds would not fit into the timer.
    if ((value = valueOf(commandLine, "probe.beat_ms=")) && numberIn(value) > 0 && numberIn(value) <= 10000)
        options.beatMs = numberIn(value);
    if ((value = valueOf(commandLine, "probe.ip="))) options.address = addressIn(value);
}

// --------------------------------------------------------------------------------------------------------------------- memory

static uint64_t lowPages, allPages;  // From FirstPage on, and with those above 4 GiB.

static uint64_t* page(uint64_t index) {
    return (uint64_t*)((index < lowPages ? FirstPage + index : HighPage + index - lowPages) * PageBytes);
}

static uint64_t pattern(uint64_t index, uint64_t generation) {
    return index * 0x9e3779b97f4a7c15ul ^ generation << 40 ^ 0x5bd1e9955bd1e995ul;
}

static void writePage(uint64_t index, uint64_t generation) {
    volatile uint64_t* words = page(index);
    words[0] = words[PageWords - 1] = pattern(index, generation);
}

static void findMemory(void) {
    const uint64_t low = (uint64_t)(readCmos(0x34) | readCmos(0x35) << 8) << 16;
    const uint64_t high = (uint64_t)(readCmos(0x5b) | readCmos(0x5c) << 8 | readCmos(0x5d) << 16) << 16;
    lowPages = low / PageBytes;
    allPages = lowPages + high / PageBytes;
}

// One CPU's share of the area that is written. Of each page one cache line, another one each time, and the last one is looked at.
struct Writer {
    uint64_t cpu, first, end, at, generation;
};

static struct Writer writerOf(uint64_t cpu, uint64_t number, uint64_t writers) {
    const uint64_t first = writePages * number / writers;
    return (struct Writer){.cpu = cpu, .first = first, .end = writePages * (number + 1) / writers, .at = first, .generation = 1};
}

static void writeSome(struct Writer* writer) {
    enum { AtOnce = 16 };
    for (int i = 0; i < AtOnce; ++i) {
        uint64_t* words = page(allPages + writer->at);
        if (words[(writer->generation - 1) % 64 * 8] != writer->generation - 1) {
            written[writer->cpu].badPage = writer->at;
            ++written[writer->cpu].mismatches;
        }
        words[writer->generation % 64 * 8] = writer->generation;
        if (++writer->at == writer->end) writer->at = writer->first, ++writer->generation;
    }
    written[writer->cpu].pages += AtOnce;
}

void otherMain(uint64_t cpu) {
    while (writePages == 0) __asm__ volatile("pause");
    struct Writer writer = writerOf(cpu, cpu - 1, cpus - 1u);
    for (;;) writeSome(&writer);
}

static void startOtherCpus(void) {
    uint16_t count = 0;
    readFirmwareItem(FirmwareCpus, &count, sizeof count);
    if (count > MaxCpus) say("guest: too many CPUs, one is used of ", count);
    if (count < 2 || count > MaxCpus) return;
    for (int i = 0; i < trampolineEnd - trampoline; ++i) ((volatile char*)TrampolineAddress)[i] = trampoline[i];
    localApic[0x300 / 4] = 0xc4500;  // INIT to all but this one,
    const uint64_t begun = readTsc();
    while (readTsc() - begun < 30000000) __asm__ volatile("pause");  // some 10 ms,
    localApic[0x300 / 4] = 0xc4600 | TrampolineAddress >> 12;        // and the start.
    while (cpus < count) __asm__ volatile("pause");
}

// The checks of RAM: before the cursor pages are of `generation` + 1, after it of `generation`.
static struct {
    uint64_t pages, cursor, generation, passes, checked, mismatches, errors;
    struct Text error;  // That is to be said.
} ram = {.generation = 1};

static void fillMemory(uint64_t toWrite) {
    ram.pages = allPages;
    if (options.ramMibGiven && options.ramMib * 256 < allPages) ram.pages = options.ramMib * 256;
    for (uint64_t index = 0; index < ram.pages; ++index) writePage(index, 1);
    for (uint64_t index = 0; index < toWrite; ++index) page(allPages + index)[0] = 0;
}

static void checkPage(void) {
    const volatile uint64_t* words = page(ram.cursor);
    const uint64_t expected = pattern(ram.cursor, ram.generation);
    const uint64_t found = words[0] != expected ? words[0] : words[PageWords - 1];
    if (found != expected) {
        ++ram.mismatches;
        if (ram.errors < MaxErrors && ram.error.length == 0) {
            ++ram.errors;
            addField(&ram.error, "E ram page ", ram.cursor);
            addField(&ram.error, " found ", found);
            addField(&ram.error, " expected ", expected);
            add(&ram.error, "\n");
        }
    }
    writePage(ram.cursor, ram.generation + 1);
    ++ram.checked;
    if (++ram.cursor == ram.pages) ram.cursor = 0, ++ram.generation, ++ram.passes;
}

// ----------------------------------------------------------------------------------------------------------------------- time

// KVM's paravirtual clock (Linux, Documentation/virt/kvm/x86/msr.rst: MSR_KVM_SYSTEM_TIME_NEW).
static volatile struct {
    uint32_t version, pad0;
    uint64_t tsc, nanoseconds;
    uint32_t multiplier;
    int8_t shift;
    uint8_t flags, pad[2];
} __attribute__((aligned(32))) clockPage;
static bool hasClock;

static void openClock(void) {
    uint32_t a, b, c, d;
    askCpuid(1, &a, &b, &c, &d);
    if (!(c & 1u << 31)) return;  // No hypervisor says that it is there.
    askCpuid(0x40000000, &a, &b, &c, &d);
    if (b != 0x4b4d564b || c != 0x564b4d56 || d != 0x4d) return;  // KVMKVMKVM
    askCpuid(0x40000001, &a, &b, &c, &d);
    if (!(a & 8)) return;
    writeMsr(0x4b564d01, (uint64_t)&clockPage | 1);
    hasClock = true;
}

// Both of one moment: KVM writes the page anew when it likes, and a counter from before that goes with none of what is there now.
static uint64_t clockNanoseconds(uint64_t* tsc) {
    if (!hasClock) return *tsc = readTsc(), 0;
    uint32_t version;
    uint64_t nanoseconds;
    do {
        version = clockPage.version;
        *tsc = readTsc();
        const uint64_t since = *tsc - clockPage.tsc;
        const uint64_t shifted = clockPage.shift < 0 ? since >> -clockPage.shift : since << clockPage.shift;
        nanoseconds = clockPage.nanoseconds + (uint64_t)((unsigned __int128)shifted * clockPage.multiplier >> 32);
    } while (version % 2 || version != clockPage.version);
    return nanoseconds;
}

// ----------------------------------------------------------------------------------------------------------------------- beats

static uint64_t beats, unsent, writtenMismatches;
static bool hasDisk;

static bool sendText(const struct Text* text) {
    return sendLine(text->line, text->length);
}

static void checkWriters(void) {
    uint64_t mismatches = 0, badPage = 0;
    for (int cpu = 0; cpu < MaxCpus; ++cpu) {
        mismatches += written[cpu].mismatches;
        if (written[cpu].mismatches) badPage = written[cpu].badPage;
    }
    const bool isNew = mismatches != writtenMismatches;
    writtenMismatches = mismatches;
    if (!isNew || ram.error.length > 0 || ram.errors >= MaxErrors) return;
    ++ram.errors;
    addField(&ram.error, "E written page ", badPage);
    addField(&ram.error, " is not as it was left; of these: ", mismatches);
    add(&ram.error, "\n");
}

static void beat(void) {
    struct Text text = {.length = 0};
    addField(&text, "B ", beats + 1);
    add(&text, "\n");
    sendText(&text) ? ++beats : ++unsent;
}

static void sendWritten(void) {
    uint64_t pages = 0;
    for (int cpu = 0; cpu < MaxCpus; ++cpu) pages += written[cpu].pages;
    struct Text text = {.length = 0};
    if (writePages > 0) {
        addField(&text, "W ", pages);
        add(&text, "\n");
        sendText(&text);
        text.length = 0;
    }
    uint64_t tsc;
    const uint64_t nanoseconds = clockNanoseconds(&tsc);
    addField(&text, "T ", tsc);
    addField(&text, " ", nanoseconds);
    add(&text, "\n");
    sendText(&text);
}

static void sendStatus(void) {
    struct Text text = {.length = 0};
    addField(&text, "S seq=", beats);
    addField(&text, " ram_mib=", ram.pages / 256);
    addField(&text, " ram_filled=1 ram_passes=", ram.passes);
    addField(&text, " ram_checked=", ram.checked);
    if (hasDisk) addField(&text, " disk_checked=", diskCounts.checked);
    if (hasDisk) addField(&text, " io_errors=", diskCounts.ioErrors);
    addField(&text, " unsent=", unsent);
    addField(&text, " mismatches=", ram.mismatches + diskCounts.mismatches + writtenMismatches);
    addField(&text, " uptime_ms=", ticks * options.beatMs);
    addField(&text, " cpus=", cpus);
    add(&text, "\n");
    sendText(&text);
}

// ---------------------------------------------------------------------------------------------------------------- power button

// ACPI's fixed registers (ACPI 6.5, 4.8.3), where nobody has put them yet.
enum { PowerIo = 0x600, PowerButton = 0x100, Sleep = 0x2000 };

static void watchPowerButton(void) {
    enum { Piix4Power = 1 << 3 | 3, Ich9Bridge = 31 << 3 };
    if (readPci(Ich9Bridge, 0) == 0xffffffff) {  // pc: the power management function of PIIX4.
        writePci(Piix4Power, 0x40, PowerIo | 1);
        writePci(Piix4Power, 0x80, readPci(Piix4Power, 0x80) | 1);
    } else {  // q35: ICH9's LPC bridge.
        writePci(Ich9Bridge, 0x40, PowerIo | 1);
        writePci(Ich9Bridge, 0x44, 0x80);
    }
    outw(PowerIo + 2, PowerButton);
}

static void powerOff(void) {
    outw(PowerIo + 4, Sleep);  // S5 is type 0 in QEMU.
}

static void heedPowerButton(void) {
    if (!(inw(PowerIo) & PowerButton)) return;
    say("guest: power button, beats: ", beats);
    powerOff();
}

// ----------------------------------------------------------------------------------------------------------------------- start

static void takeInterrupts(void) {
    static uint64_t table[512] __attribute__((aligned(16)));
    static struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) tableRegister;
    for (int vector = 0; vector < 256; ++vector) {
        const uint64_t entry = (uint64_t)(vector < 32 ? faultEntry : vector == TimerVector ? timerEntry : spuriousEntry);
        table[2 * vector] = (entry & 0xffff) | 0x80000 | 0x8e00ul << 32 | (entry >> 16 & 0xffff) << 48;
        table[2 * vector + 1] = entry >> 32;
    }
    tableRegister.limit = sizeof table - 1;
    tableRegister.base = (uint64_t)table;
    __asm__ volatile("lidt %0" ::"m"(tableRegister));
    outb(0x21, 0xff);  // The old interrupt controllers: nothing from them.
    outb(0xa1, 0xff);
}

static void startTimer(void) {
    localApic[0x0f0 / 4] = 0x1ff;                  // On, with a spurious vector.
    localApic[0x3e0 / 4] = 3;                      // Divided by 16,
    localApic[0x320 / 4] = 0x20000 | TimerVector;  // again and again.
    localApic[0x380 / 4] = (uint32_t)(TicksPerMs * options.beatMs);
}

int main(void) {
    takeInterrupts();
    readOptions();
    findMemory();
    watchPowerButton();
    // The written area is at the end of RAM: page() takes the indices from allPages on for it.
    uint64_t toWrite = options.writeMib * 256;
    if (toWrite >= allPages) {
        say("guest: probe.write_mib is more than there is: ", allPages / 256);
        powerOff();
    }
    allPages -= toWrite;
    say(openHeartbeatPort() ? "guest: a heartbeat port; RAM in MiB: " : "guest: no heartbeat port; RAM in MiB: ", allPages / 256);
    hasDisk = openDisk();
    if (options.address && !openNetwork(options.address)) say("guest: no network card for the address ", options.address);
    openClock();
    fillMemory(toWrite);
    startOtherCpus();
    writePages = toWrite;
    say("guest: ready, CPUs: ", cpus);
    startTimer();

    struct Writer writer = writerOf(0, 0, 1);
    const bool writes = writePages > 0 && cpus == 1;
    const uint64_t pagesPerBeat =
        options.rateMibPerSecond > 0 ? (options.rateMibPerSecond * options.beatMs * 256 + 999) / 1000 : 64;
    uint64_t diskMismatches = 0;
    for (uint64_t done = 0;;) {
        if (writes) {
            __asm__ volatile("sti");
            while (ticks == done) writeSome(&writer);
            __asm__ volatile("cli");
        } else {
            __asm__ volatile("sti; hlt; cli" ::: "memory");
        }
        if (ticks == done) continue;
        done = ticks;
        beat();
        if (done % BeatsPerWritten == 0) sendWritten();
        if (done % BeatsPerStatus == 0) sendStatus();
        exerciseDisk();
        answerNetwork();
        if (done % BeatsPerWritten == 0) echoConsole();
        if (done % BeatsPerWritten == 0) heedPowerButton();
        if (diskCounts.mismatches > diskMismatches && ram.error.length == 0 && ram.errors < MaxErrors) {
            diskMismatches = diskCounts.mismatches;
            ++ram.errors;
            addField(&ram.error, "E disk block ", diskCounts.badBlock);
            addField(&ram.error, " is not as it was left, or was not written or read; of these: ", diskCounts.mismatches);
            add(&ram.error, "\n");
        }
        checkWriters();
        if (ram.error.length > 0 && sendText(&ram.error)) ram.error.length = 0;
        for (uint64_t i = 0; i < pagesPerBeat && ram.pages > 0; ++i) checkPage();
    }
}
