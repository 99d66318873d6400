// A program that answers --version as QEMU does, and otherwise waits to be ended.
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char** argv) {
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        puts("QEMU emulator version 10.0.2 (Pretended 1:10.0.2)");
        return 0;
    }
    pause();
    return 0;
}
