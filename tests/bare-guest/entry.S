# Entry of the bare guest, in 32-bit protected mode with paging off: by a PVH note (QEMU's -kernel with SeaBIOS), or from
# firmware.S. Switches to long mode with an identity map of 32 GiB in pages of 2 MiB, and calls main(). The other CPUs come in
# through `trampoline`, which main() copies below 1 MiB, and call otherMain().
#
# Everything runs at CPL 0 with integer instructions only: on a host whose KVM emulates ring 0 the emulator has to know each of
# them, and it knows neither SSE nor what is encoded by VEX.

    .set mappedGib, 32
    .set stackBytes, 16384
    .set maxCpus, 8

    .section .note.pvh, "a", @note
    .long 4, 4, 18                      # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long start32

    .section .text.start, "ax"
    .code32
    .globl start32
start32:
    cli
    movl $pml4, %edi                    # pml4[0] -> pdpt
    movl $pdpt + 7, (%edi)
    movl $0, 4(%edi)
    xorl %ecx, %ecx
1:  movl %ecx, %eax                     # pdpt[i] -> pds + i * 4096
    shll $12, %eax
    addl $pds + 7, %eax
    movl %eax, pdpt(,%ecx,8)
    movl $0, pdpt + 4(,%ecx,8)
    incl %ecx
    cmpl $mappedGib, %ecx
    jb 1b
    xorl %ecx, %ecx
2:  movl %ecx, %eax                     # 2 MiB each, present, writable, large
    shll $21, %eax
    orl $0x87, %eax
    movl %eax, pds(,%ecx,8)
    movl %ecx, %eax
    shrl $11, %eax
    movl %eax, pds + 4(,%ecx,8)
    incl %ecx
    cmpl $(mappedGib * 512), %ecx
    jb 2b
    movl $main, %ebx
    xorl %ebp, %ebp                     # CPU 0
    jmp enable64

    # Of the other CPUs: real mode, CS << 4 is where main() has put this.
    .code16
    .globl trampoline, trampolineEnd
trampoline:
    cli
    movw %cs, %ax
    movw %ax, %ds
    lgdtl trampolineGdtr - trampoline
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $0x18, $start32Other
    .align 8
trampolineGdtr: .word 31
    .long gdt
trampolineEnd:

    .code32
start32Other:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $1, %ebp
    lock xaddl %ebp, cpus               # Its number; CPU 0 is counted already.
    movl $otherMain, %ebx

    # %ebx: what to call, %ebp: the CPU's number.
enable64:
    movl $pml4, %eax
    movl %eax, %cr3
    movl $0x20, %eax                    # CR4.PAE
    movl %eax, %cr4
    movl $0xc0000080, %ecx              # EFER.LME
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl $0x80000033, %eax              # CR0: PG, NE, ET, MP, PE
    movl %eax, %cr0
    lgdt gdtr
    ljmp $8, $start64
    .code64
start64:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    movl %ebp, %edi
    leal 1(%rbp), %eax
    shll $14, %eax
    leaq stacks(%rax), %rsp
    call *%rbx
3:  cli
    hlt
    jmp 3b

    .globl timerEntry, spuriousEntry, faultEntry
timerEntry:
    pushq %rax
    incq ticks
    movl $0xfee000b0, %eax              # EOI; as an absolute address it would be sign-extended.
    movl $0, (%rax)
    popq %rax
    iretq
spuriousEntry:
    iretq
faultEntry:                             # What is on the stack tells where; the console tells that.
    movw $0x3f8, %dx
    movb $'!', %al
    outb %al, %dx
4:  cli
    hlt
    jmp 4b

    .data
    .globl cpus
cpus: .long 1
    .align 16
gdt: .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cf9b000000ffff  # none, code64 8, data 16, code32 24
gdtr: .word 31
    .long gdt

    .bss
    .align 4096
pml4: .skip 4096
pdpt: .skip 4096
pds: .skip mappedGib * 4096
stacks: .skip maxCpus * stackBytes

    .section .note.GNU-stack, "", @progbits
