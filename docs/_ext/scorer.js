/* Sphinx's scores of search results, but guides come before single functions of the same name. */
var Scorer = {
  objNameMatch: 9,
  objPartialMatch: 6,
  objPrio: { 0: 0, 1: 0, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
