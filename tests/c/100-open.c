/* A backend opens by its URL, and says its size and that it takes writes. */
#include "test.h"

int main(void)
{
    r3map_backend *backend = open_backend("memory:?size=12345");
    uint64_t size = 0;
    bool read_only = true;
    OK(r3map_backend_size(backend, &size));
    OK(r3map_backend_read_only(backend, &read_only));
    CHECK(size == 12345 && !read_only);
    r3map_backend_free(backend);

    struct file file = new_file("open", 777);
    backend = open_backend(file.url);
    OK(r3map_backend_size(backend, &size));
    CHECK(size == 777);
    r3map_backend_free(backend);
    return 0;
}
