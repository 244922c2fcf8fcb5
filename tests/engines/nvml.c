/* A driver's management library for machines that have none: two cards as the environment says.
   NVML_CARDS is "memory;memory;...", each "TOTAL/FREE", "unified", "lost" or "divided". */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6, GPU_IS_LOST = 15 };
typedef struct { unsigned long long total, free, used; } memory;

static const char *card(unsigned long index) {
    static char copy[1024];
    strncpy(copy, getenv("NVML_CARDS"), sizeof copy - 1);
    char *word = strtok(copy, ";");
    while (word && index--) word = strtok(NULL, ";");
    return word;
}
int nvmlInitWithFlags(unsigned flags) { return getenv("NVML_CARDS") ? OK : 9; }
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { return "fabricated"; }
int nvmlDeviceGetCount_v2(unsigned *count) {
    for (*count = 0; card(*count);) ++*count;
    return OK;
}
/* A handle is the index + 1; parts of a divided card are 100 + the part. */
int nvmlDeviceGetHandleByIndex_v2(unsigned index, unsigned long *handle) {
    *handle = index + 1;
    return strcmp(card(index), "lost") ? OK : GPU_IS_LOST;
}
int nvmlDeviceGetUUID(unsigned long handle, char *uuid, unsigned size) {
    snprintf(uuid, size, handle >= 100 ? "MIG-%04lu" : "GPU-%04lu", handle);
    return OK;
}
int nvmlDeviceGetName(unsigned long handle, char *name, unsigned size) {
    snprintf(name, size, "Card %lu\x1b", handle);
    return OK;
}
int nvmlDeviceGetMemoryInfo(unsigned long handle, memory *found) {
    if (handle >= 100) { found->total = 10; found->free = 9; return OK; }
    if (!strcmp(card(handle - 1), "unified")) return NOT_SUPPORTED;
    return sscanf(card(handle - 1), "%llu/%llu", &found->total, &found->free) == 2 ? OK : GPU_IS_LOST;
}
int nvmlDeviceGetMigMode(unsigned long handle, unsigned *now, unsigned *later) {
    *now = *later = !strcmp(card(handle - 1), "divided");
    return *now ? OK : NOT_SUPPORTED;
}
int nvmlDeviceGetMaxMigDeviceCount(unsigned long handle, unsigned *count) { *count = 7; return OK; }
int nvmlDeviceGetMigDeviceHandleByIndex(unsigned long handle, unsigned index, unsigned long *part) {
    *part = 100 + index;
    return index == 1 || index == 2 ? OK : NOT_FOUND;
}
