/* Files with several names: the first name found is the file, the others are hard links to it. A hash table
 * with open addressing over device and inode; its size is bounded by the number of entries. */

#include "layer.h"

#include <stdlib.h>
#include <string.h>

#define SLOTS_START 1024u

struct wy_link
{
  dev_t device;
  ino_t inode;
  char *name; /* NULL: free */
};

static struct wy_link *
slot_of (struct wy_link *slots, size_t cap, dev_t device, ino_t inode)
{
  size_t at = (size_t)((inode * 0x9e3779b97f4a7c15u) ^ (device * 31u)) & (cap - 1);
  while (slots[at].name != NULL && (slots[at].device != device || slots[at].inode != inode))
    at = (at + 1) & (cap - 1);
  return &slots[at];
}

static void
grow (struct wy_links *links)
{
  size_t cap = links->cap == 0 ? SLOTS_START : links->cap * 2;
  struct wy_link *slots = calloc (cap, sizeof *slots);
  if (slots == NULL)
    wy_fail ("malloc", "");
  for (size_t i = 0; i < links->cap; i++)
    if (links->slots[i].name != NULL)
      *slot_of (slots, cap, links->slots[i].device, links->slots[i].inode) = links->slots[i];
  free (links->slots);
  links->slots = slots;
  links->cap = cap;
}

/* Find the name under which the file ST was found before. Return: that name, or NULL after recording NAME for
 * it. */
const char *
wy_links_find (struct wy_links *links, const struct stat *st, const char *name)
{
  if (!S_ISREG (st->st_mode) || st->st_nlink < 2)
    return NULL;
  if (links->used * 2 >= links->cap)
    grow (links);
  struct wy_link *slot = slot_of (links->slots, links->cap, st->st_dev, st->st_ino);
  if (slot->name != NULL)
    return slot->name;
  slot->device = st->st_dev;
  slot->inode = st->st_ino;
  slot->name = wy_copy_text (name);
  links->used++;
  return NULL;
}
