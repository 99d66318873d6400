// What a compiler may call without being asked, also in a program without a library. String instructions, for a loop might be
// compiled into a call of the function that it is in.
#include <stddef.h>

void* memset(void* to, int value, size_t bytes) {
    void* at = to;
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(bytes) : "a"(value) : "memory");
    return to;
}

void* memcpy(void* to, const void* from, size_t bytes) {
    void* at = to;
    __asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(bytes)::"memory");
    return to;
}
