// The random numbers of kernels/random.h, under the name the engine's folders use.
#pragma once

#include "kernels/random.h"
