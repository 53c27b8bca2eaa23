# Completion for bash: `source scripts/completion.bash`, or installed where bash looks for it.
# What a command understands is asked of the command itself, so that nothing here can be out of date.

# The words that complete a key of a recipe, or the value of one that stands before `=`.
_qat_recipe_words() { # COMMAND, what is typed
  "$1" --help-recipe 2>/dev/null | awk -v typed="$2" '
    /^  [a-z0-9_.]+$/ { key = $1; next }
    key != "" {
      if (index(typed, "=") == 0) print key "="
      else if (index(typed, key "=") == 1) {
        takes = $0
        sub(/;.*/, "", takes)
        if (takes ~ /true or false/) print key "=true\n" key "=false"
        else if (sub(/^.*one of /, "", takes)) {
          count = split(takes, words, ", ")
          for (i = 1; i <= count; ++i) print key "=" words[i]
        }
      }
      key = ""
    }'
}

_qat() {
  local command=$1 word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
  # bash cuts words at `=` and `:`; what is typed is put together again, and `cut` is left out of the
  # answers, because it stands there already.
  local typed=${COMP_LINE:0:COMP_POINT}
  typed=${typed##* }
  local cut=${typed%"$word"}
  if [[ ${COMP_LINE:0:COMP_POINT} =~ --set\ +[^\ ]*$ ]]; then
    compopt -o nospace 2>/dev/null
    mapfile -t COMPREPLY < <(compgen -W "$(_qat_recipe_words "$command" "$typed")" -- "$typed")
    COMPREPLY=("${COMPREPLY[@]#"$cut"}")
    [[ $word == "=" ]] && COMPREPLY=("${COMPREPLY[@]#=}")
    return
  fi
  local help choices
  help=$("$command" --help 2>/dev/null)
  if [[ $word == -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$(grep -oE -- '--[a-z][a-z-]+' <<<"$help" | sort -u)" -- "$word")
    return
  fi
  # An option whose help lists its values: --format TEXT:{hf,gguf,...}
  choices=$(sed -nE "s/^ +(-[a-z],)?$before TEXT:\{([^}]*)\}.*/\2/p" <<<"$help")
  if [[ $before == -* && -n $choices ]]; then
    mapfile -t COMPREPLY < <(compgen -W "${choices//,/ }" -- "$word")
    return
  fi
  compopt -o filenames 2>/dev/null
  mapfile -t COMPREPLY < <(compgen -f -- "$word")
}

complete -F _qat qat-train qat-eval qat-generate qat-export qat-inspect qat-tokenize qat-bench
