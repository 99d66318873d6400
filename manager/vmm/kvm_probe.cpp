#include "manager/vmm/kvm_probe.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "vmm-shim/throw_errno.h"
#include "vmm-shim/unique_fd.h"

namespace vh {
namespace {

constexpr std::size_t memoryBytes = 0x4000;
constexpr std::uint64_t codeAddress = 0x1000;
constexpr std::uint8_t port = 0xf4;

const std::vector<std::uint8_t> realMode = {
    0xb0, 0x55,  // mov al, 0x55
    0xe6, port,  // out port, al
    0xf4,        // hlt
};

const std::vector<std::uint8_t> protectedMode = {
    0xb8, 0x15, 0x00, 0x00, 0x00,  // mov eax, 0x15
    0x01, 0xc0,                    // add eax, eax
    0xe6, port,                    // out port, al: 0x2a
    0xf4,                          // hlt
};

const std::vector<std::uint8_t> encodedByVex = {
    0xbb, 0x01, 0x00, 0x00, 0x00,  // mov ebx, 1
    0xb9, 0x05, 0x00, 0x00, 0x00,  // mov ecx, 5
    0xc4, 0xe2, 0x71, 0xf7, 0xc3,  // shlx eax, ebx, ecx
    0xe6, port,                    // out port, al: 32
    0xf4,                          // hlt
};

struct Mapping {
    void* address;
    std::size_t length;
    Mapping(std::size_t bytes, int fd)
        : address(::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED, fd, 0)),
          length(bytes) {
        if (address == MAP_FAILED) throwErrno("map memory for a trial guest");
    }
    Mapping(const Mapping&) = delete;
    ~Mapping() { ::munmap(address, length); }
};

template <class Argument>
int call(int fd, unsigned long request, Argument argument, const char* name) {
    const int result = ::ioctl(fd, request, argument);
    if (result < 0) throwErrno(name);
    return result;
}

/// ` (c4 e2 71 f7 c3 ...)`, or nothing when KVM does not say.
std::string refusedInstruction(const kvm_run& state) {
    const auto& failure = state.emulation_failure;
    if (failure.suberror != KVM_INTERNAL_ERROR_EMULATION || failure.ndata < 1 ||
        !(failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES))
        return {};
    std::string bytes;
    for (std::size_t i = 0; i < std::min<std::size_t>(failure.insn_size, sizeof failure.insn_bytes); ++i) {
        constexpr char digits[] = "0123456789abcdef";
        bytes += {i ? ' ' : '(', digits[failure.insn_bytes[i] >> 4], digits[failure.insn_bytes[i] & 15]};
    }
    return bytes.empty() ? bytes : " " + bytes + ")";
}

/// Runs code in a new guest; returns the byte that it wrote to the port before it halted.
int run(int kvm, const std::vector<std::uint8_t>& code, bool protectedModeGuest) {
    const UniqueFd vm(call(kvm, KVM_CREATE_VM, 0UL, "KVM_CREATE_VM"));
    const Mapping memory(memoryBytes, -1);
    std::memcpy(static_cast<char*>(memory.address) + codeAddress, code.data(), code.size());
    kvm_userspace_memory_region region{};
    region.memory_size = memoryBytes;
    region.userspace_addr = reinterpret_cast<std::uintptr_t>(memory.address);
    call(vm.get(), KVM_SET_USER_MEMORY_REGION, &region, "KVM_SET_USER_MEMORY_REGION");

    const UniqueFd cpu(call(vm.get(), KVM_CREATE_VCPU, 0UL, "KVM_CREATE_VCPU"));
    kvm_sregs special{};
    call(cpu.get(), KVM_GET_SREGS, &special, "KVM_GET_SREGS");
    special.cs.base = 0;
    special.cs.selector = 0;
    if (protectedModeGuest) {
        for (kvm_segment* segment : {&special.cs, &special.ds, &special.es, &special.ss}) {
            segment->base = 0;
            segment->limit = 0xffffffff;
            segment->g = segment->db = segment->s = segment->present = 1;
            segment->type = segment == &special.cs ? 11 : 3;
            segment->selector = segment == &special.cs ? 8 : 16;
        }
        special.cr0 |= 1;
    }
    call(cpu.get(), KVM_SET_SREGS, &special, "KVM_SET_SREGS");
    kvm_regs general{};
    general.rip = codeAddress;
    general.rflags = 2;
    call(cpu.get(), KVM_SET_REGS, &general, "KVM_SET_REGS");

    const Mapping shared(static_cast<std::size_t>(call(kvm, KVM_GET_VCPU_MMAP_SIZE, 0UL, "KVM_GET_VCPU_MMAP_SIZE")), cpu.get());
    auto* state = static_cast<kvm_run*>(shared.address);
    int written = -1;
    for (int exits = 0; exits < 16; ++exits) {
        call(cpu.get(), KVM_RUN, 0UL, "KVM_RUN");
        if (state->exit_reason == KVM_EXIT_HLT) return written;
        if (state->exit_reason == KVM_EXIT_IO && state->io.port == port)
            written = *(static_cast<std::uint8_t*>(shared.address) + state->io.data_offset);
        else if (state->exit_reason == KVM_EXIT_INTERNAL_ERROR)
            throw std::runtime_error("KVM could not execute an instruction of a trial guest" + refusedInstruction(*state) +
                                     " (is this host itself a virtual machine?)");
        else if (state->exit_reason != KVM_EXIT_IO)
            throw std::runtime_error("a trial guest ended with KVM exit reason " + std::to_string(state->exit_reason));
    }
    throw std::runtime_error("a trial guest did not halt");
}

bool hostHasBmi2() {
    return __builtin_cpu_supports("bmi2");
}

}  // namespace

KvmAbility probeKvm() {
    KvmAbility ability;
    try {
        const UniqueFd kvm(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
        if (!kvm) throwErrno("'/dev/kvm'");
        if (const int version = call(kvm.get(), KVM_GET_API_VERSION, 0UL, "KVM_GET_API_VERSION"); version != KVM_API_VERSION)
            throw std::runtime_error("KVM has API version " + std::to_string(version));
        if (run(kvm.get(), realMode, false) != 0x55) throw std::runtime_error("a trial guest computed nonsense in real mode");
        if (run(kvm.get(), protectedMode, true) != 0x2a)
            throw std::runtime_error("a trial guest computed nonsense in protected mode");
        ability.guests = KvmAbility::Guests::Plain;
        if (hostHasBmi2() && run(kvm.get(), encodedByVex, true) != 32)
            throw std::runtime_error("a trial guest computed nonsense with an instruction of BMI2");
        ability.guests = KvmAbility::Guests::All;
    } catch (const std::exception& error) {
        ability.why = error.what();
    }
    return ability;
}

}  // namespace vh
